"""A filesystem that fails before its nth change."""

from pyarrow import fs


class Killed(BaseException):
    """Raised to stop the code under test, which catches no such exception."""


class FaultyFilesystem(fs.LocalFileSystem):
    """Raises `fault` before the `left`-th operation that changes something."""

    left = 0
    fault: BaseException = Killed()

    def _count(self):
        self.left -= 1
        if self.left == 0:
            raise self.fault

    def open_output_stream(self, *args, **kwargs):
        self._count()
        return super().open_output_stream(*args, **kwargs)

    def move(self, *args):
        self._count()
        super().move(*args)

    def delete_file(self, *args):
        self._count()
        super().delete_file(*args)
