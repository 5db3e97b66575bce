"""Merging needs memory for one tensor, not for a checkpoint: measured in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = 4
MIB = 2**20

SAVE = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing
import transformers
from tests.support.sharded_checkpoints import save_per_rank, shard_model

def work(rank, ranks, out, model):
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=ranks)
    shard_model(model)
    dcp.save({"model": model.state_dict()}, checkpoint_id=out / "dcp")
    save_per_rank(model.state_dict(), out / "ranks")
    dist.barrier()
    dist.destroy_process_group()

torch.set_num_threads(1)
ranks, out = int(sys.argv[1]), Path(sys.argv[2])
config = transformers.LlamaConfig(
    vocab_size=32000, hidden_size=512, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=8,
    architectures=["LlamaForCausalLM"], tie_word_embeddings=False,
)
config.save_pretrained(out)
model = transformers.LlamaForCausalLM._from_config(config)
torch.multiprocessing.start_processes(work, (ranks, out, model), nprocs=ranks, start_method="fork")
"""

MERGE = """
import json, sys
from pathlib import Path
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, LlamaForCausalLM
import lmms_eval_grpc.engine.checkpoints.dcp
import lmms_eval_grpc.engine.checkpoints.rank_files
from lmms_eval_grpc.engine.checkpoints.merge import merge_checkpoint
from tests.support.reporters import Recorder

def resident(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
merged = merge_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), Recorder())
print(json.dumps({"peak": resident("VmHWM") - before, "bytes": merged.size_bytes}))
"""


def run(script: str, *words: str) -> str:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=root, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 203 MiB in four shards, in both formats."""
    folder = tmp_path_factory.mktemp("large")
    run(SAVE, str(RANKS), str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("format", ["dcp", "ranks"])
def test_the_peak_is_within_that_of_the_largest_shard_and_the_largest_tensor(
    large: Path, tmp_path: Path, format: str
) -> None:
    told = json.loads(run(MERGE, str(large / format), str(tmp_path / "merged")))
    shards = [path.stat().st_size for path in (large / format).iterdir()]
    largest_tensor = 32000 * 512 * 4
    bound = 1.3 * (max(shards) + largest_tensor)
    print(f"{format}: peak {told['peak'] / MIB:.0f} MiB, bound {bound / MIB:.0f}, weights {told['bytes'] / MIB:.0f}")
    assert told["bytes"] > 200 * MIB
    assert len(shards) >= RANKS
    # Whoever loads the whole checkpoint is above it.
    assert bound < told["bytes"]
    assert told["peak"] <= bound
    # The two largest follow one another in the file, and are never in memory together.
    assert told["peak"] < 1.6 * largest_tensor
