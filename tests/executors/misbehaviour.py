"""Document functions of tasks that go wrong: copied beside their YAML files and run inside real workers."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOLD = 600


def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_target(doc):
    return str(doc["label"])


def well_behaved(doc):
    return "What digit is shown?"


def talk(doc):
    print("said to standard output: blåbær")
    sys.stderr.write("said to standard error\n")
    return "What digit is shown?"


def dawdle(doc):
    time.sleep(0.1)
    return "What digit is shown?"


def hang_with_children(doc):
    child = subprocess.Popen(["sleep", str(HOLD)])
    runaway = subprocess.Popen(["sleep", str(HOLD)], start_new_session=True)
    print(f"children: {child.pid} {runaway.pid}", flush=True)
    time.sleep(HOLD)


def leave_children_behind(doc):
    subprocess.Popen(["sleep", str(HOLD)], start_new_session=True)
    subprocess.Popen(["sleep", str(HOLD)])
    return "What digit is shown?"


def leave_a_fork_behind(doc):
    # It holds everything that the worker holds, the socket to the server included.
    if os.fork() == 0:
        time.sleep(HOLD)
        os._exit(0)
    return "What digit is shown?"


def kill_itself(doc):
    print("about to be killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def crash(doc):
    ctypes.string_at(0)


def exit_with_three(doc):
    os._exit(3)


def raise_half_a_character(doc):
    raise ValueError("cannot parse the answer '\ud83d'")


def call_sys_exit(doc):
    sys.exit("the task had enough")


def leave_marks(doc):
    marks = ["environment"] if "MARK" in os.environ else []
    marks += ["search path"] if "/mark" in sys.path else []
    marks += ["folder"] if Path.cwd() == Path("/") else []
    print(f"marks: {marks}, worker: {os.environ['LMMS_EVAL_GRPC_WORKER']}", flush=True)
    os.environ["MARK"] = "1"
    sys.path.append("/mark")
    os.chdir("/")
    return "What digit is shown?"
