"""The page: a person drops a photo and understands the answer.

    python web.py --server.port 8600        # or: streamlit run web.py; http://localhost:8600, API at API_URL

The API is asked once per photo, for all that the model says; the slider acts on that answer. Nothing of a
photo is written to disk, not even on its way in, and nothing is shared between two people's sessions, unless
feedback is turned on and a person sends some. page/memory.py bounds what memory holds, and for how long.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from streamlit.delta_generator import DeltaGenerator
from streamlit.web import cli

from client import Client, ServiceError
from detection.names import LANGUAGES, closest_language
from page import memory
from page.corrections import forget_old
from page.model import model_ui
from page.photos import photos_ui
from page.review import review_ui
from page.session import OUTAGES, Page, forget_pictures
from page.shell import Shell
from page.texts import TEXTS
from page.verdict import notice_ui
from page.video import video_ui
from settings import WebSettings, web_settings

log = logging.getLogger("web")
ICON = Path(__file__).parent / "page" / "icon.png"
STREAMLIT_WORDS = {
    "choose": "upload_button",
    "take": "upload_take",
    "drop": "upload_drop",
    "choose-video": "video_button",
    "drop-video": "video_drop",
    "shoot": "camera_shoot",
    "again": "camera_again",
    "allow": "camera_allow",
}
TABS = ("tab_photos", "tab_video", "tab_review", "tab_model")


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title=TEXTS["title"]["en"], page_icon=ICON, layout="wide")
    settings = WebSettings()  # found right before the server began to listen
    key = settings.api_key.get_secret_value() if settings.api_key else None
    language, place = header_ui()
    page = Page(language, settings, client_of(settings.api_url, key, settings.api_timeout))
    style_ui(page)
    page.hear_of_model(can_wait=is_reviewing())
    if not is_reviewing():  # where the detector was not asked
        with place:
            status_ui(page)
    missing_ui(page)
    notice = st.container()
    keys = tab_keys(settings)
    drawn = st.tabs(tab_names(page, keys), key="tab", on_change="rerun", bind="query-params")
    tabs = dict(zip(keys, drawn, strict=True))
    video = tabs["tab_video"]
    with tabs[
        "tab_photos"
    ]:  # this one and the next are drawn always: an uploader that is not forgets its files
        photos_ui(page)
    with video:
        video_ui(page, is_open=bool(video.open))
    for key, draw in (("tab_review", review_ui), ("tab_model", model_ui)):
        if key in tabs and tabs[key].open:
            with tabs[key]:
                draw(page)
    with notice:
        outage_ui(page)
    footer_ui(page)


def tab_keys(settings: WebSettings) -> list[str]:
    """Return the tabs there are: events can be reviewed where a person has named their database."""
    return [key for key in TABS if key != "tab_review" or settings.watch_events]


def is_reviewing() -> bool:
    """Say whether the review tab is open: an alarm there waits for nothing that it does not need."""
    opened = st.session_state.get("tab", st.query_params.get("tab"))
    return opened in TEXTS["tab_review"].values()


def tab_names(page: Page, keys: Sequence[str]) -> list[str]:
    """Return the tabs' names; the tab that was open in the other language stays so."""
    names = [page.text(key) for key in keys]
    chosen = st.session_state.get("tab")
    if chosen is not None and chosen not in names:
        st.session_state["tab"] = next((page.text(k) for k in keys if chosen in TEXTS[k].values()), names[0])
    return names


@st.cache_resource
def client_of(api_url: str, api_key: str | None, timeout_s: float) -> Client:
    """Return the one client that all sessions share: it holds connections, no photos."""
    return Client(api_url, api_key=api_key, read_timeout_s=timeout_s, retries=3)


def header_ui() -> tuple[str, DeltaGenerator]:
    """Draw title and language switch; return the language, and the place beside it."""
    with st.container(
        horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="bar"
    ):
        title, place = st.container(width="stretch"), st.container(width="content", key="status")
        language = st.segmented_control(
            "Language / Язык",
            list(LANGUAGES),
            format_func=str.upper,
            default=closest_language(st.context.locale),
            required=True,
            key="language",
            bind="query-params",
            label_visibility="collapsed",
        )
    title.title(TEXTS["title"][language], anchor=False)
    return language, place


def status_ui(page: Page) -> None:
    """Say whether the detector answers; in no colour of an answer."""
    kind, words = ("ready", "status_ready") if page.outage is None else ("gone", "status_gone")
    st.html(f"<p class='status status-{kind}'><i></i>{page.text(words)}</p>")


def style_ui(page: Page) -> None:
    """Put our words on the widgets that Streamlit words in English only."""
    words = "".join(f"--word-{name}: '{page.text(key)}';" for name, key in STREAMLIT_WORDS.items())
    st.html(f"<style>:root {{ {words} }}</style>")
    script = f"<script>document.documentElement.lang = '{page.language}'</script>"
    with st.container(key="unseen"):
        st.html(script, unsafe_allow_javascript=True)  # for screen readers; Streamlit says English always


def missing_ui(page: Page) -> None:
    """Say which of the person's files are not there, if so: for want of room, or forgotten meanwhile."""
    visitors = memory.visitors_of(1e6 * page.settings.web_uploads_mb)
    if missing := visitors.welcome(memory.session_id()):
        notice_ui(page.text(missing))


def outage_ui(page: Page) -> None:
    """Say why the detector cannot be asked, if so, and look every few seconds whether it is back."""
    if page.outage is None:
        return
    notice_ui(page.sentence(page.outage))
    if isinstance(page.outage, OUTAGES):
        wait_for_service(page)


@st.fragment(run_every=3.0)
def wait_for_service(page: Page) -> None:
    """Start the page's run again once the API answers."""
    try:
        page.client.model()
    except ServiceError:
        return
    st.rerun()


def footer_ui(page: Page) -> None:
    """Say what the model cannot see, and what becomes of the photos."""
    with st.expander(page.text("limits_title"), key="limits"):
        st.markdown(page.text("limits"))
    st.caption(page.text("privacy_feedback" if page.settings.feedback_dir else "privacy"))
    if page.settings.watch_events:
        st.caption(page.text("privacy_events", days=f"{page.settings.watch_event_days:g}"))


# --- the server -------------------------------------------------------------------------------------


def page_server() -> st.App:
    """Return the server of this page, or say in sentences which setting is wrong and exit 2."""
    settings = web_settings()
    visitors = memory.visitors_of(1e6 * settings.web_uploads_mb)
    memory.keep_uploads_in_memory()
    app = st.App(
        __file__,
        lifespan=memory.looking_after(visitors, forget_pictures, lambda: forget_corrections(settings)),
        middleware=[Middleware(Shell), Middleware(memory.BoundedUploads, visitors)],
    )
    return app  # noqa: RET504 - `streamlit run` looks for this assignment to know that there is a server here


def forget_corrections(settings: WebSettings) -> None:
    """Delete the corrected photos that are older than they may be; say in the log where that fails."""
    if settings.feedback_dir is None:
        return
    try:
        forget_old(settings.feedback_dir, settings.feedback_days)
    except OSError:
        log.exception("corrected photos in FEEDBACK_DIR could not be looked through for old ones")


if __name__ != "__main__":  # imported by Streamlit's server as it starts
    app = page_server()
elif st.runtime.exists():  # run by that server, anew for everything that a visitor does
    main()
else:
    web_settings()  # before Streamlit says that the page can be viewed
    cli.main(["run", __file__, *sys.argv[1:]])
