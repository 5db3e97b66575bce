"""Where the files of video benchmarks lie: unpacked archives below the Hugging Face home folder."""

from lmms_eval_grpc.engine.data.folders import task_folder as media_folder

__all__ = ["first_existing", "media_folder"]


def first_existing(candidates):
    """The first of the paths that exists, as text. Raises FileNotFoundError naming the first."""
    for path in candidates:
        if path.exists():
            return str(path)
    raise FileNotFoundError(
        f"{candidates[0]} does not exist: let the task download the data set where the machine has network, or unpack "
        "the data set's archives there"
    )
