"""Document functions of tasks that go wrong: copied beside their YAML files and run inside real workers."""

import ctypes
import multiprocessing.connection
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
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


def litter(doc):
    # What a careless task and the programs that it starts leave behind; the socket is multiprocessing's own.
    listener = multiprocessing.connection.Listener(family="AF_UNIX")
    descriptor, name = tempfile.mkstemp()
    os.write(descriptor, b"x" * 1000)
    started = subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True)
    print("left:", listener.address, name, started.stdout.strip(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


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


def fall_asleep(doc):
    time.sleep(HOLD)


def stop_itself(doc):
    os.kill(os.getpid(), signal.SIGSTOP)


def backtrack_for_ever(doc):
    # One call into C that holds the interpreter's lock: no other thread of the process runs.
    re.match("(a|aa)+$", "a" * 200 + "b")


def ask_for_too_much_memory(doc):
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    return bytearray(64 << 30)


def flood(doc):
    block = "x" * 1023 + "\n"
    for _ in range(4096):
        sys.stdout.write(block)
    return "What digit is shown?"


def leave_marks(doc):
    marks = ["environment"] if "MARK" in os.environ else []
    marks += ["search path"] if "/mark" in sys.path else []
    marks += ["folder"] if Path.cwd() == Path("/") else []
    print(f"marks: {marks}, worker: {os.environ['LMMS_EVAL_GRPC_WORKER']}", flush=True)
    os.environ["MARK"] = "1"
    sys.path.append("/mark")
    os.chdir("/")
    return "What digit is shown?"
