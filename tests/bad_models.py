"""Models that do to their worker what models do: end it, hang in it, fork it, close its files."""

from __future__ import annotations

BAD_MODELS = '''
import asyncio, os, signal, threading, time
from pathlib import Path
from mlserve import MLModel
from mlserve.types import InferenceResponse, ResponseOutput

HERE = Path(__file__).parent


def echo(model, request, value=None):
    one = request.inputs[0]
    data = one.data.to_numpy(one.datatype, one.shape)
    data = data if value is None else data * 0 + value
    output = ResponseOutput(name=one.name, shape=one.shape, datatype=one.datatype, data=data)
    return InferenceResponse(model_name=model.name, outputs=[output])


def note(text):
    with open(HERE / "notes.txt", "a") as notes:
        notes.write(text + "\\n")


class Crasher(MLModel):
    """Ends its process on a value below zero; notes every call that it sees."""

    def predict(self, request):
        note(str(request.id))
        if request.inputs[0].data[0] < 0:
            os._exit(9)
        return echo(self, request)


class LoadCrasher(MLModel):
    """Ends its process in load() while the file "crash" is there."""

    def load(self):
        if (HERE / "crash").exists():
            os._exit(9)
        return True

    def predict(self, request):
        return echo(self, request)


class LoadHanger(MLModel):
    def load(self):
        while (HERE / "hang").exists():
            time.sleep(0.01)
        return True

    def predict(self, request):
        return echo(self, request)


class UnloadHanger(MLModel):
    def unload(self):
        time.sleep(200)

    def predict(self, request):
        return echo(self, request)


class Hanger(MLModel):
    """Hangs as the request's id says: in Python, in C with the GIL held, or stopped as a whole."""

    def predict(self, request):
        note(str(request.id))
        kind = str(request.id).split("-")[0]
        if kind == "sleep":
            time.sleep(200)
        elif kind == "swallow":
            end = time.monotonic() + 200
            while time.monotonic() < end:
                try:
                    time.sleep(200)
                except BaseException:
                    pass
        elif kind == "gil":
            (b"a" * 30000).replace(b"", b"b" * 100000) and sum(range(4_000_000_000))
        elif kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        return echo(self, request)


class Rude(MLModel):
    """Mistreats its process as the request's id says, and answers."""

    def predict(self, request):
        kind = request.id
        if kind == "fork-return":
            if os.fork() == 0:
                return echo(self, request, -1)
        elif kind == "fork-stay":
            if os.fork() == 0:
                time.sleep(200)
                os._exit(0)
        elif kind == "close":
            for fd in range(21):
                try:
                    os.close(fd)
                except OSError:
                    pass
        elif kind == "print":
            print("x" * 3_000_000)
        elif kind == "chdir":
            os.chdir("/")
        elif kind == "signals":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
        elif kind == "threads":
            for _ in range(20):
                threading.Thread(target=time.sleep, args=(200,)).start()
        elif kind in ("exit", "interrupt", "generator", "cancelled", "base"):
            raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "generator": GeneratorExit,
                   "cancelled": asyncio.CancelledError, "base": BaseException}[kind]()
        return echo(self, request, os.getpid() % 1000)


class AsyncRude(Rude):
    async def predict(self, request):
        await asyncio.sleep(0)
        return Rude.predict(self, request)

    async def predict_stream(self, requests):
        async for request in requests:
            yield Rude.predict(self, request)
'''
