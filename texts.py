"""Every word the page shows, in English and Russian, and the names people use for the classes."""
from __future__ import annotations
CLASS_TEXTS = {"en": {"pistol":"pistol","knife":"knife","billete":"banknote","monedero":"wallet","smartphone":"smartphone","tarjeta":"bank card"}}
def class_name(label: str, language: str) -> str:
    return CLASS_TEXTS[language].get(label, label)
