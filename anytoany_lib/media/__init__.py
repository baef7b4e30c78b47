"""Media files in and out: pictures, sounds and clips, as they come from anywhere.

Begin with `media_files`, which notebooks use as `anytoany_lib.media`: load, check, convert, write. Behind it stand the
kinds (`pictures`, `sounds`, `clips`), what they share (`containers`) and the table of `file_types`.
"""

from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.media_files import (
    as_audio,
    as_image,
    as_media,
    as_video,
    content_key,
    kind_in,
    load,
    load_audio,
    load_image,
    load_video,
    save,
    save_audio,
    save_image,
    save_video,
    to_bytes,
)
