"""Who is signed in, and the way out."""

import streamlit as st

from pages import _access
from pages._settings import settings


def show() -> None:
    """One line, where people are known by name; the way out where they came by a login of ours."""
    name = _access.user()
    if name is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"Signed in as {name}", width="content")  # text: an address must be no link
        if settings().access.identity == "oidc" and st.button("Sign out", type="tertiary"):
            st.logout()
