"""What was reviewed, as pictures for the next training: a preview of what would be written, and the file."""

from __future__ import annotations

import streamlit as st

from cameras.events import EventStore
from cameras.export import Exported, planned, zipped
from detection.names import class_name
from page.session import Page
from page.texts import markdown_safe

SHOWN_ROWS = 20
MOST_PICTURES = 400  # in one file, which this page makes in its memory
ROOT = "reviewed"


def export_ui(page: Page, store: EventStore) -> None:
    """Draw what the reviewed events become, and the button that brings them.

    Raises:
        EventsError: the events cannot be read.
    """
    with st.expander(page.text("export"), icon=":material/school:", key="review_export"):
        everything = planned(store)
        if not everything:
            st.markdown(page.text("export_none"))
            return
        newest = everything[-MOST_PICTURES:]
        st.markdown(counts_words(page, newest))
        st.table([row(page, each) for each in reversed(newest[-SHOWN_ROWS:])], hide_index=True)
        if len(newest) > SHOWN_ROWS:
            st.caption(page.text("export_more", count=len(newest) - SHOWN_ROWS))
        if len(newest) < len(everything):
            st.caption(page.text("export_part", count=len(newest)))
        st.download_button(
            page.text("export_download"), data=lambda: zipped(store, newest, ROOT), type="primary",
            file_name=f"{ROOT}.zip", mime="application/zip", key="export_zip", on_click="ignore",
            icon=":material/folder_zip:",
        )  # fmt: skip
        st.markdown(page.text("export_train"))
        st.code(f"unzip {ROOT}.zip\npython train.py --data weapons {ROOT}", language="sh")


def counts_words(page: Page, wanted: list[Exported]) -> str:
    """Return how many pictures of each kind would be written."""
    confirmed = sum(each.review == "confirmed" for each in wanted)
    cameras = len({each.camera for each in wanted})
    return page.text("export_counts", confirmed=confirmed, dismissed=len(wanted) - confirmed, cameras=cameras)


def row(page: Page, each: Exported) -> dict[str, str]:
    """Return a picture as the preview shows it."""
    names = ", ".join(class_name(label, page.language) for label in each.labels)
    place = "; ".join(", ".join(f"{value:.0f}" for value in box) for box in each.boxes)
    return {
        page.text("export_file"): markdown_safe(f"images/{each.name}.jpg"),
        page.text("export_as"): names or page.text("export_negative"),
        page.text("column_place"): place,
    }
