"""Cameras watched through the model API: streams, frames that agree on an alarm, events that are kept."""
