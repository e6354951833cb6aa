"""Runs scripts in a process that is to our code like one on Windows: ``like_windows.py FOLDER``.

Modules, functions and signals that only POSIX has are missing, processes are spawned and not
forked, a file that is open cannot be renamed or removed, and text has no default encoding. Other
packages see the system as it is. Prints the names of the files that were made.
"""

import builtins
import importlib
import io
import multiprocessing
import os
import signal
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
MODULES = {
    *("crypt", "fcntl", "grp", "nis", "posix", "pty", "pwd", "resource", "spwd", "syslog"),
    *("termios", "tty"),
}
MISSING = {
    *("fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getpgid"),
    *("setsid", "killpg", "nice", "uname", "sysconf", "getloadavg", "sched_getaffinity"),
    *("chown", "fchmod", "lchown", "mkfifo", "mknod", "statvfs", "pathconf", "openpty"),
    *("pread", "pwrite", "preadv", "pwritev", "readv", "sendfile", "posix_fallocate"),
    *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC", "WNOHANG", "wait"),
    *("SIGKILL", "SIGHUP", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGQUIT"),
    *("SIGSTOP", "SIGTSTP", "SIGCONT", "alarm", "setitimer", "pause", "sigwait", "pthread_kill"),
}
SCRIPTS = sorted({path.stem for path in ROOT.glob("*.py")} - {"setup"})
TOY = ("--data_name=circles", "--device_name=cpu")
RUNS = (
    (
        *("toy_train", "--outdir=toy", "--nosubdir", "--duration=0.0004", "--batch=100"),
        *("--no-calibrate", *TOY),
    ),
    ("toy_pfODE_int", "exact", "--save_dir=exact", "--total_samples=9", "--steps=2", *TOY),
    ("visualize", "exact", "--dest=pictures", "--no-animation"),
    ("dataset_tool", "--source=digits", "--dest=set.zip", "--max-images=16"),
    (
        *("train", "--outdir=images", "--data=set.zip", "--device_name=cpu", "--no-calibrate"),
        *("--cbase=8", "--cres=1", "--batch=16", "--duration=0.000032", "--workers=1"),
    ),
)
IMPORT = builtins.__import__


def is_ours(file):
    # Without pathlib, which itself asks os for its name.
    top, _, rest = file.partition(f"{ROOT}/")
    return not top and bool(rest) and not rest.startswith((".venv", "tests/"))


class Poorer(ModuleType):
    """A module without what Windows lacks, as our code sees it."""

    def __getattribute__(self, name):
        if name in MISSING and is_ours(sys._getframe(1).f_code.co_filename):
            raise AttributeError(f"Windows has no {name}")
        if name == "name" and is_ours(sys._getframe(1).f_code.co_filename):
            return "nt"
        return super().__getattribute__(name)


def take_away_modules(name, *others, **options):
    if name in MODULES and is_ours(sys._getframe(1).f_code.co_filename):
        raise ModuleNotFoundError(f"Windows has no module {name}")
    return IMPORT(name, *others, **options)


def wants_closed(function):
    def checked(*paths, **options):
        descriptors = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        used = {os.path.realpath(descriptor) for descriptor in descriptors}
        for path in paths:
            if os.path.realpath(path) in used and not os.path.isdir(path):
                raise PermissionError(f"{path} is open")
        return function(*paths, **options)

    return checked


def complain(message, kind, file, line, *_):
    if kind is EncodingWarning and is_ours(file):
        raise AssertionError(f"{file}:{line}: {message}")


def run(name, *arguments):
    script = importlib.import_module(name)
    sys.argv[0] = f"{name}.py"
    script.main.main([*arguments], standalone_mode=False)


def main(folder, runs):
    sys.path.insert(0, str(ROOT))
    os.chdir(folder)
    multiprocessing.set_start_method("spawn")
    warnings.simplefilter("always", EncodingWarning)
    vars(warnings)["showwarning"] = complain
    builtins.__import__ = take_away_modules
    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, wants_closed(getattr(os, name)))
    os.__class__ = signal.__class__ = Poorer
    for path in (ROOT / "training" / "cli").glob("*.py"):
        importlib.import_module(f"training.cli.{path.stem}")
    for name in SCRIPTS:
        script = importlib.import_module(name)
        with redirect_stdout(io.StringIO()):
            for command in ("", *getattr(script.main, "commands", ())):
                run(name, *command.split(), "--help")
    # They take long, and no system makes a difference to them.
    for name in ("find_integrations", "learn_latents"):
        vars(importlib.import_module("training.learning.run"))[name] = lambda *_: None
    for name, *arguments in RUNS[: int(runs)]:
        run(name, *arguments)
    print(*sorted(str(path) for path in Path().rglob("*") if path.is_file()), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
