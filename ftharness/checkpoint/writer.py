"""Writes checkpoints while the caller goes on."""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ftharness.checkpoint import contents
from ftharness.checkpoint.commit import make_folder
from ftharness.checkpoint.errors import CheckpointError, CheckpointWriteError
from ftharness.checkpoint.manifest import CheckpointManifest
from ftharness.checkpoint.shard import batch_of, checkpoint_file, commit_checkpoint, shard_folder
from ftharness.checkpoint.storage import DISK, Storage

_log = logging.getLogger("ftharness.checkpoint")


class AsyncCheckpointWriter:
    """Writes checkpoints in threads of its own.

    What is given to it is copied before :meth:`write_checkpoint_async` returns. One checkpoint waits for each that is being
    written, at most: a caller that is faster than the disk is made to wait, so that what is not written yet never takes more
    memory than that.

    Args:
        max_workers: Checkpoints that are written at the same time.
        manifest: Is told of each that is committed; with ``rank``.
        rank: Of which shard they are.
        storage: The disk.

    As a context manager it waits at the end as :meth:`shutdown` does; where the body raised, failed writes are only logged.
    """

    def __init__(
        self,
        max_workers: int = 1,
        manifest: CheckpointManifest | None = None,
        rank: int | None = None,
        *,
        storage: Storage = DISK,
    ) -> None:
        self._manifest = manifest
        self._rank = rank
        self._storage = storage
        self._pool = ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix="checkpoint")
        self._room = threading.BoundedSemaphore(2 * max_workers)
        # Those that succeeded are dropped, failed ones wait to be told of. Threads change it by single operations, which need no
        # lock: one that an exit leaves held would hold up whoever ends in order.
        self._futures: dict[Future[None], Path] = {}
        self._folders: set[Path] = set()  # they are on the disk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.shutdown()
        except CheckpointWriteError as failed:
            if error is None:
                raise
            _log.error("%s", failed)

    def write_checkpoint_async(
        self, checkpoint_path: Path, embeddings: Any, sequence_ids: Sequence[str], metadata: Mapping[str, Any]
    ) -> Future[None]:
        """Write a checkpoint; its folder is made where there is none.

        Args:
            checkpoint_path: ``shard_<rank>/batch_<batch_idx>.pt``, the number with five digits. By that name it is looked for.
            embeddings: A row for each id: a tensor, wherever it is, or a numpy array.
            sequence_ids: Strings.
            metadata: What else is to be known; ``batch_idx``, ``num_sequences`` and ``timestamp`` are looked for when it is read.

        Returns:
            Done when the checkpoint is committed; with a :class:`~ftharness.checkpoint.errors.CheckpointError` where it is not.

        Raises:
            TypeError: Something could not be read back safely.
            ValueError: The embeddings are no rows for these ids, or an id is there twice; or nobody would look for it there: the
                file's name is another, its number is not the metadata's ``batch_idx``, or it is in another folder than
                the shard that the manifest is told of.
            RuntimeError: The writer is shut down.
        """
        path, future = Path(checkpoint_path), Future[None]()
        self._room.acquire()  # before the copy, so that there are never more of them
        # SystemExit, from a handler of SIGTERM, may come between any two steps: then it is never written, or is waited for.
        try:
            self._futures[future] = path
            what = contents.taken(embeddings, sequence_ids, metadata)
            batch = self._batch(path, what.metadata)
            self._pool.submit(self._run, future, path, batch, what)
        except BaseException:
            if future.cancel():
                self._let_go(future)
            raise
        return future

    def wait_all(self, timeout: float | None = None) -> None:
        """Wait until everything is written.

        Args:
            timeout: Seconds for all of it; None: without end.

        Raises:
            CheckpointWriteError: A :class:`RuntimeError` with all that failed since the last call, and all that is not done yet.
                What is not done stays pending; what failed is told once.
        """
        waited = dict(self._futures)
        _, late = wait(waited, timeout)
        failed = [f"{waited[future]}: still being written after {timeout} s" for future in waited if future in late]
        for future, path in waited.items():
            if future in late or future.cancelled():
                continue
            if (error := future.exception()) is not None:
                failed.append(f"{path}: {error}")
        for future in waited:
            if future not in late:
                self._futures.pop(future, None)
        if failed:
            raise CheckpointWriteError(f"{len(failed)} checkpoint write(s) failed:\n" + "\n".join(failed))

    def has_pending(self) -> bool:
        """Whether something is not written yet."""
        return any(not future.done() for future in list(self._futures))

    def shutdown(self) -> None:
        """Write what is pending, and end; a second time does nothing.

        Raises:
            CheckpointWriteError: As by :meth:`wait_all`.
        """
        self._pool.shutdown(wait=True)
        self.wait_all()

    def _batch(self, path: Path, metadata: Mapping[str, Any]) -> int:
        """Which batch it is; what would be found under no name, or under another one, is refused."""
        batch = batch_of(path.name)
        if batch is None:
            raise ValueError(
                f"{path} would not be found again: a checkpoint is called batch_<batch_idx>.pt, with five digits"
                f" ({checkpoint_file(0)})"
            )
        said = metadata.get("batch_idx", batch)
        if said != batch:
            right = f"; that one has to be called {checkpoint_file(said)}" if isinstance(said, int) else ""
            raise ValueError(f"{path} is called as batch {batch}, and its metadata's batch_idx is {said!r}{right}")
        if self._manifest is not None and self._rank is not None:
            folder = path.absolute().parent
            if folder != (own := shard_folder(folder.parent, self._rank)):
                raise ValueError(
                    f"{path} is not in a folder {own.name}, and it is that shard that the manifest is told of"
                )
        return batch

    def _run(self, future: Future[None], path: Path, batch: int, what: contents.Contents) -> None:
        if not future.set_running_or_notify_cancel():
            self._let_go(future)
            return
        try:
            self._write(path, batch, what)
        except BaseException as error:  # noqa: BLE001 - it is told to who waits, and this thread has more to write
            self._room.release()
            future.set_exception(error)
        else:
            self._let_go(future)
            future.set_result(None)

    def _let_go(self, future: Future[None]) -> None:
        """Forget it, and make room for another; one that was given up before it was begun may come by here twice."""
        if self._futures.pop(future, None) is not None:
            self._room.release()

    def _write(self, path: Path, batch: int, what: contents.Contents) -> None:
        try:
            if path.parent not in self._folders:
                make_folder(self._storage, path.parent)
                self._folders.add(path.parent)
            commit_checkpoint(self._storage, path, what)
        except Exception as error:
            said = getattr(error, "strerror", None) or error
            _log.error("%s is not committed: %s", path, said)
            raise CheckpointWriteError(
                f"Checkpoint write failed: {path} is not committed: {said}; those before it are as they were"
            ) from error
        if self._manifest is not None and self._rank is not None:
            try:
                self._manifest.update_shard_checkpoint(self._rank, batch, len(what.sequence_ids), path.name)
            except (OSError, CheckpointError, ValueError) as error:
                raise CheckpointError(f"{path} is committed, but not recorded in the manifest: {error}") from error
