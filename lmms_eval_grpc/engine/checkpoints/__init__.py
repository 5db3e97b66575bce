"""Sharded training checkpoints, and merging one into a checkpoint that ``from_pretrained`` loads.

``layouts`` tells from the names of files what a folder is and where its shards are; ``companions`` finds the
configuration and tokenizer that belong to them. Both are light: the server asks them before it queues anything. The
rest imports torch: ``dcp`` and ``rank_files`` read the two formats tensor by tensor, ``naming`` decides what each
tensor is called in the merged checkpoint, ``safetensors_file`` and ``staging`` write it, and ``merge`` is the whole.
"""
