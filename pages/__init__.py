"""The app's pages, and in ``_*.py`` what they share; started by ``app.py``."""
