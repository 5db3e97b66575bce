"""Media that documents and messages name, decoded.

:mod:`.images`, :mod:`.video` and :mod:`.audio` load one medium each from whatever names it; :mod:`.sources` says where
its bytes are and :mod:`.errors` what is wrong with it. :mod:`.frames` chooses the frames of a video on its
:mod:`.timeline`, and ``video_pyav``, ``video_torchcodec`` and ``video_dali`` decode them. :mod:`.cache` keeps what was
decoded, in an :mod:`.array_store`, under a :mod:`.digest` of the source.
"""
