"""Photographs with boxes on disk: read, split, checked, downloaded, drawn."""
