"""The review tab: what cameras confirmed, newest first, for a person to confirm or dismiss.

Whoever has the page open may review; the name is what that person writes, and kept for the visit. An event
that a person looks at stays there, whatever happens meanwhile: nothing moves under the finger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, tzinfo
from html import escape

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cameras.events import (
    Event,
    EventGone,
    EventsError,
    EventStore,
    Review,
    ReviewedMeanwhile,
    Trouble,
)
from detection import imaging
from detection.names import class_name
from page import memory
from page.events import (
    KINDS,
    STATES,
    Choice,
    answer_words,
    best_frame,
    day_words,
    lasting,
    open_store,
    sentence,
    thumbnail,
    when,
    zone_of_visitor,
)
from page.review_export import export_ui
from page.session import Page
from page.texts import markdown_safe
from page.verdict import Band, Kind, band_ui, notice_ui, title_ui

LOOK_EVERY_S = 1.0  # whether there is something new: an alarm is here within 3 s of its third frame
PER_PAGE = 24
NAME_LETTERS, WHY_LETTERS = 128, 500
KEYS: dict[Review, str] = {"confirmed": "W", "dismissed": "N"}  # Streamlit keeps C for itself


def review_ui(page: Page) -> None:
    """Draw the whole tab."""
    state, top = "", st.container()
    try:
        store = open_store(page)
        state = store.state()
        tab_ui(page, store)
    except EventsError as error:
        state = ""
        with top:
            notice_ui(sentence(page, error))
    st.session_state["events_state"] = state
    st.session_state["events_fresh"] = True
    look_again(page)


@st.fragment(run_every=LOOK_EVERY_S)
def look_again(page: Page) -> None:
    """Start the page's run again once there is something new, or once the events can be read again."""
    if st.session_state.pop("events_fresh", False):
        return
    try:
        state = open_store(page).state()
    except EventsError:
        state = ""
    if state != st.session_state.get("events_state", state):
        st.rerun()


def tab_ui(page: Page, store: EventStore) -> None:
    """Draw what there is to review.

    Raises:
        EventsError: the events cannot be read or written.
    """
    zone, counts = zone_of_visitor(), store.counts()
    for each in lasting(store.troubles()):
        what = page.text(f"lens_{each.kind}")
        since = when(page, each.started_at, zone)
        notice_ui(page.text("lens_now", camera=each.camera, when=since, what=what), "warning")
    states, event, filters = st.container(), st.container(), st.container()  # a phone's first screen decides
    choice = filter_ui(page, store, counts, zone, states, filters)
    events, troubles = choice.events(store, zone), choice.troubles(store, zone)
    with event:
        current = current_event(page, store, events)
        if current is not None:
            new_ui(page, events, current)
            event_ui(page, store, current, events, zone)
        else:
            title_ui(page)
            said_ui(page)
            if not troubles:
                notice_ui(page.text(empty_words(counts, choice)))
    cards_ui(page, store, events, troubles, current, zone)
    export_ui(page, store)


def empty_words(counts: Mapping[str, int], choice: Choice) -> str:
    """Return the text that says why there is nothing to see."""
    if not counts["all"]:
        return "review_empty"
    return "review_done" if choice == Choice() else "review_none_so"


def said_ui(page: Page) -> None:
    """Say what became of the last decision, with the way back."""
    words, undo = st.session_state.get("review_said", ("", None))
    if not words:
        return
    with st.container(horizontal=True, vertical_alignment="center", key="review_said_row"):
        notice_ui(words)
        if undo is not None:
            st.button(
                page.text("review_undo"), key="review_undo", icon=":material/undo:",
                on_click=take_back, args=(page, undo),
            )  # fmt: skip


# --- which events -----------------------------------------------------------------------------------


def filter_ui(
    page: Page, store: EventStore, counts: Mapping[str, int], zone: tzinfo,
    states: DeltaGenerator, filters: DeltaGenerator,
) -> Choice:  # fmt: skip
    """Draw the filters, those by state in one place and the rest in another, and return what is wanted."""
    chosen = Choice(*st.session_state.get("review_choice", Choice()))
    with states, st.container(key="review_states"):
        state = st.segmented_control(
            page.text("review_states"), STATES, default=chosen.state, required=True, key="review_state",
            format_func=lambda state: page.text(f"review_{state}", count=counts[state]),
            label_visibility="collapsed", on_change=start_at_newest,
        )  # fmt: skip
    with filters:
        kind, camera, day = chosen.kind, chosen.camera, chosen.day
        what = [page.text(f"review_{kind}")] if kind else []
        what += [markdown_safe(camera)] if camera else []
        what += [day_words(page, day)] if day else []
        label = page.text("review_filter_on", what=", ".join(what)) if what else page.text("review_filter")
        with st.popover(label, icon=":material/filter_list:", key="review_filter"):
            kind, camera, day = narrower_ui(page, store, chosen, zone)
    choice = Choice(state, kind, camera, day)
    if choice != chosen:
        st.session_state["review_choice"] = choice
        st.rerun()  # the filter's own words say what is chosen
    return choice


def narrower_ui(
    page: Page, store: EventStore, chosen: Choice, zone: tzinfo
) -> tuple[str | None, str | None, date | None]:
    """Draw the filters by kind, camera and day."""
    kind = st.pills(
        page.text("review_kinds"), KINDS, default=chosen.kind, key="review_kind", on_change=start_at_newest,
        format_func=lambda kind: page.text(f"review_{kind}"),
    )  # fmt: skip
    cameras = [None, *store.cameras()]
    camera = st.selectbox(
        page.text("review_camera"), cameras, index=_index(cameras, chosen.camera), key="review_camera",
        format_func=lambda name: name or page.text("review_every_camera"), on_change=start_at_newest,
    )  # fmt: skip
    starts = {moment.astimezone(zone).date() for moment in store.starts()}
    days = [None, *sorted(starts, reverse=True)]
    day = st.selectbox(
        page.text("review_day"), days, index=_index(days, chosen.day), key="review_day",
        format_func=lambda day: day_words(page, day) if day else page.text("review_every_day"),
        on_change=start_at_newest,
    )  # fmt: skip
    return kind, camera, day


def _index(options: Sequence[object], chosen: object) -> int:
    return options.index(chosen) if chosen in options else 0


def start_at_newest() -> None:
    """Let go of the event that is looked at, and of what was said of the last one."""
    for name in ("review_event", "review_as_seen", "review_said", "review_page"):
        st.session_state.pop(name, None)


def current_event(page: Page, store: EventStore, events: Sequence[Event]) -> Event | None:
    """Return the event that this person looks at: the chosen one as long as it is there, else the newest."""
    event_id = st.session_state.get("review_event")
    kept = store.event(event_id) if event_id else None
    if event_id and kept is None:
        start_at_newest()
        notice_ui(gone_words(page))
    kept = kept or (events[0] if events else None)
    st.session_state["review_event"] = kept.id if kept else None
    if kept is not None and st.session_state.get("review_as_seen", ("",))[0] != kept.id:
        st.session_state["review_as_seen"] = (
            kept.id,
            kept.reviewed_at,
        )  # another's answer since then was first
    return kept


def new_ui(page: Page, events: Sequence[Event], current: Event) -> None:
    """Say that something newer than anything before has come, and offer to go there."""
    newest = events[0].started_at if events else current.started_at
    known = st.session_state.setdefault("review_newest", newest)
    if current.started_at >= newest or newest <= known:
        st.session_state["review_newest"] = max(known, newest)
        return
    st.button(
        page.text("review_new"), key="review_new", icon=":material/notifications_active:", type="primary",
        on_click=start_at_newest,
    )  # fmt: skip


# --- one event --------------------------------------------------------------------------------------


def event_ui(page: Page, store: EventStore, kept: Event, events: Sequence[Event], zone: tzinfo) -> None:
    """Draw one event with the ways to say what it is."""
    kind: Kind = "none" if kept.review == "dismissed" else "unsure" if kept.verdict == "unsure" else "alarm"
    kind = "alarm" if kept.review == "confirmed" else kind
    title_ui(page, None if kept.review else kind)
    band_ui(Band(kind, answer_words(page, kept), more_words(page, kept, zone)))
    with st.container(key="review_event_row"):
        left, right = st.columns([7, 3], gap="medium")
        with left:
            picture_ui(page, store, kept, zone)
        with right:
            decide_ui(page, kept, events)
            scenes_ui(page, store, kept)
            facts_ui(page, kept, zone)


def more_words(page: Page, kept: Event, zone: tzinfo) -> str:
    """Return where and when it was, and who has said what of it."""
    lasted = page.decimal((kept.ended_at - kept.started_at).total_seconds(), 1)
    seen = page.text(
        "review_seen", camera=kept.camera, when=when(page, kept.started_at, zone), frames=kept.frames,
        lasted=lasted,
    )  # fmt: skip
    words = [seen]
    if kept.verdict == "unsure" and not kept.review:
        words.insert(0, page.text("unsure_weapon", name=class_name(kept.label, page.language)))
    if kept.review and kept.reviewed_at:
        said = {"by": kept.reviewed_by, "when": when(page, kept.reviewed_at, zone), "why": kept.why}
        words.insert(0, page.text("review_said_why" if kept.why else "review_said", **said))
    if kept.quiet:
        words.append(page.text("review_quiet"))
    return " ".join(words)


def picture_ui(page: Page, store: EventStore, kept: Event, zone: tzinfo) -> None:
    """Draw the best frame large."""
    alt = page.text(
        "review_alt", camera=kept.camera, when=when(page, kept.started_at, zone),
        answer=answer_words(page, kept),
    )  # fmt: skip
    try:
        drawn = best_frame(page, store, kept, memory.session_id())
    except imaging.ImageError:
        notice_ui(page.text("review_no_picture"))
    else:
        with st.container(key="review_mat"):
            st.image(drawn, width="stretch", alt=alt)


def scenes_ui(page: Page, store: EventStore, kept: Event) -> None:
    """Draw what was to be seen before and after the best frame."""
    with st.container(horizontal=True, key="review_scenes"):
        for scene in store.scenes(kept.id):
            words = page.text(f"review_{scene.place}", seconds=page.decimal(scene.apart_s, 1))
            with st.container(key=f"scene_{scene.place}", gap=None):
                st.image(scene.picture, width="stretch", alt=words)
                st.html(f"<p class='scene-words'>{escape(words)}</p>")


def decide_ui(page: Page, kept: Event, events: Sequence[Event]) -> None:
    """Draw the two answers, who gives them and why, and the ways to the next event and the one before."""
    with st.container(horizontal=True, key="review_decide"):
        for review in KEYS:
            verb = "confirm" if review == "confirmed" else "dismiss"
            st.button(
                page.text(f"review_{verb}"), key=f"review_{verb}", shortcut=KEYS[review], width="stretch",
                help=page.text(f"review_{verb}_help"),
                type="primary" if review == "confirmed" else "secondary",
                on_click=decide, args=(page, kept, review, [each.id for each in events]),
            )  # fmt: skip
    said_ui(page)
    st.text_input(
        page.text("review_name"), value=st.session_state.get("reviewer", ""), key="review_name",
        max_chars=NAME_LETTERS, on_change=remember_name, autocomplete="name",
    )  # fmt: skip
    st.text_input(page.text("review_why"), key=f"review_why_{kept.id}", max_chars=WHY_LETTERS)
    ids = [each.id for each in events]
    index = ids.index(kept.id) if kept.id in ids else -1
    with st.container(horizontal=True, vertical_alignment="center", key="review_steps"):
        for name, step, shortcut in (("previous", -1, "Left"), ("next", 1, "Right")):
            to = ids[index + step] if 0 <= index + step < len(ids) else ""
            st.button(
                page.text(f"review_{name}"), key=f"review_{name}", shortcut=shortcut, disabled=not to,
                on_click=look_at, args=(to,),
            )  # fmt: skip
        if index >= 0:
            place = page.text("review_place", number=index + 1, count=len(ids))
            st.html(f"<p class='progress'>{place}</p>")


def remember_name() -> None:
    """Keep the person's name for the visit; the field itself forgets it while another tab is open."""
    st.session_state["reviewer"] = st.session_state["review_name"].strip()


def look_at(event_id: str) -> None:
    """Open another event."""
    st.session_state["review_event"] = event_id
    st.session_state.pop("review_said", None)


def facts_ui(page: Page, kept: Event, zone: tzinfo) -> None:
    """Draw the table of what is known beside the picture."""
    version = f"{kept.model_name} {kept.model_version or ''}".strip()
    points = f"{page.score(kept.alarm_point)}, {page.score(kept.unsure_point)}"
    facts = {
        "review_median": page.score(kept.score),
        "review_best": page.score(kept.best_score),
        "review_points": points,
        "review_span": f"{when(page, kept.started_at, zone)}, {when(page, kept.ended_at, zone)}",
        "review_model": markdown_safe(version),
        "review_weights": kept.weights_sha256[:16],
    }
    with st.expander(page.text("review_facts"), key="review_facts"):
        st.table({page.text(key): [value] for key, value in facts.items()}, hide_index=True)


# --- what a person says -----------------------------------------------------------------------------


def decide(page: Page, kept: Event, review: Review, ids: Sequence[str]) -> None:
    """Keep what this person says of an event, and go on to the next one that is open."""
    name = st.session_state.get("review_name", "").strip()
    if not name:
        st.session_state["review_said"] = (page.text("review_name_first"), None)
        return
    st.session_state["reviewer"] = name
    why = st.session_state.get(f"review_why_{kept.id}", "").strip()
    try:
        store = open_store(page)
        _, seen_at = st.session_state["review_as_seen"]
        store.judge(kept.id, review, by=name, why=why, seen_at=seen_at)
    except EventsError as error:
        st.session_state["review_said"] = (failure_words(page, error), None)
        return
    moment = when(page, kept.started_at, zone_of_visitor())
    words = page.text(f"review_kept_{review}", camera=kept.camera, when=moment)
    st.session_state["review_said"] = (words, kept.id)
    st.session_state["review_event"] = after(kept.id, ids)
    st.session_state.pop("review_as_seen")


def after(event_id: str, ids: Sequence[str]) -> str | None:
    """Return the next older event; after the oldest, None: the newest."""
    later = ids[ids.index(event_id) + 1 :] if event_id in ids else []
    return later[0] if later else None


def take_back(page: Page, event_id: str) -> None:
    """Open an event again that this person has just decided."""
    try:
        store = open_store(page)
        kept = store.event(event_id)
        if kept is None:
            raise EventGone("no such event")
        if kept.reviewed_by not in ("", st.session_state.get("reviewer")):
            raise ReviewedMeanwhile(kept)
        store.judge(event_id, None, by="", seen_at=kept.reviewed_at)
    except EventsError as error:
        st.session_state["review_said"] = (failure_words(page, error), None)
        return
    st.session_state["review_said"] = (page.text("review_undone"), None)
    st.session_state["review_event"] = event_id


def failure_words(page: Page, error: EventsError) -> str:
    """Return why an answer was not kept."""
    if isinstance(error, ReviewedMeanwhile):
        st.session_state["review_as_seen"] = (error.event.id, error.event.reviewed_at)
        review = error.event.review or "open"
        return page.text(f"review_first_{review}", by=error.event.reviewed_by)
    return gone_words(page) if isinstance(error, EventGone) else sentence(page, error)


def gone_words(page: Page) -> str:
    """Return that an event is there no more, and why."""
    return page.text("review_gone", days=f"{page.settings.watch_event_days:g}")


# --- all of them ------------------------------------------------------------------------------------


def cards_ui(
    page: Page, store: EventStore, events: Sequence[Event], troubles: Sequence[Trouble],
    current: Event | None, zone: tzinfo,
) -> None:  # fmt: skip
    """Draw the events and the troubles of lenses small, newest first; a press on an event opens it."""
    cards: list[Event | Trouble] = sorted(
        [*events, *troubles], key=lambda each: each.started_at, reverse=True
    )
    if len(cards) < 2 and not troubles:
        return
    pages = max(1, -(-len(cards) // PER_PAGE))
    number = min(st.session_state.get("review_page", 0), pages - 1)
    with st.container(key="review_grid"):
        for each in cards[number * PER_PAGE : (number + 1) * PER_PAGE]:
            if isinstance(each, Event):
                card_ui(page, store, each, zone, is_current=current is not None and each.id == current.id)
            else:
                trouble_ui(page, each, zone)
    if pages > 1:
        pager_ui(page, number, pages)


def card_ui(page: Page, store: EventStore, kept: Event, zone: tzinfo, *, is_current: bool) -> None:
    """Draw one event small; the button lies over the picture."""
    kind = "none" if kept.review == "dismissed" else kept.verdict
    state = "current" if is_current else "other"
    with st.container(key=f"thumb_{kind}_{state}_{kept.id}", gap=None):
        try:
            st.image(thumbnail(page, store, kept, memory.session_id()), width="stretch", alt="")
        except imaging.ImageError:
            st.html("<div class='thumb-blank'></div>")
        words = class_name(kept.label, page.language)
        if kept.review:
            words = page.text(f"review_short_{kept.review}", name=words)
        place = f"{when(page, kept.started_at, zone)} {kept.camera}"
        label = f"**{markdown_safe(words)}** {markdown_safe(place)}"
        st.button(label, key=f"see_{kept.id}", width="stretch", on_click=look_at, args=(kept.id,))


def trouble_ui(page: Page, trouble: Trouble, zone: tzinfo) -> None:
    """Draw a time in which a camera saw nothing; there is nothing to decide."""
    minutes = max(1, round((trouble.ended_at - trouble.started_at).total_seconds() / 60))
    words = page.text("lens_was", what=page.text(f"lens_{trouble.kind}"), minutes=minutes)
    place = f"{when(page, trouble.started_at, zone)} {trouble.camera}"
    with st.container(key=f"thumb_failed_{trouble.id}", gap=None):
        st.html(f"<div class='lens-card'><p><strong>{escape(words)}</strong></p><p>{escape(place)}</p></div>")


def pager_ui(page: Page, number: int, pages: int) -> None:
    """Draw the way to the other events."""
    with st.container(horizontal=True, horizontal_alignment="center", key="review_pager"):
        for key, step in (("earlier", -1), ("later", 1)):
            st.button(
                page.text(key), key=f"review_{key}", disabled=not 0 <= number + step < pages,
                on_click=st.session_state.__setitem__, args=("review_page", number + step),
            )  # fmt: skip
