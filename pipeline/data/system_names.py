"""What systems, network drives and cameras leave among photos."""

from __future__ import annotations

# Folders and files that systems and cameras leave among photos: trash, indexes, thumbnails.
SYSTEM_NAMES = frozenset(
    {"#recycle", "$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db"}
    | {"lost+found", "recycler", "system volume information", "thumbs.db"}
)
