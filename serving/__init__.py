"""The API: one model for many callers, over HTTP."""
