"""Downloads COCO panoptic: only what is needed, verified; missing and damaged files are repaired.

    data/coco/<split>2017/*.jpg · annotations/panoptic_<split>2017.json · annotations/panoptic_<split>2017/*.png

Archives are read by byte ranges: validation annotations need no download of the training annotations, and fifty
images need no download of all. `.panbench/` in the root stores sizes and CRCs, so a second call needs no network.
"""

import contextlib
import json
import os
import shlex
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from panbench.base.download import RangeReader, RangesUnsupported, download, local_path_of_url, mirrored_url
from panbench.base.errors import WITHOUT_DOWNLOAD, BadArgument, BadDataset, DownloadFailed, Unreachable, Way
from panbench.base.files import atomic_write, file_mismatch, leaves_folder, require_space, write_json
from panbench.base.reporter import SILENT, Counting, Reporter, Unit, counter
from panbench.base.secrets import without_secrets
from panbench.base.text import in_sentence, size_in_words
from panbench.base.zips import CONNECTIONS, ByteSource, StoredMember, ZipArchive, crc_of
from panbench.datasets.instances import read_json

SPLITS = ("val", "train", "test-dev")

# Above this share, the complete archive is downloaded (one request, SHA-256) instead of single members.
_COMPLETE_SHARE = 0.6
_STATE_FOLDER = ".panbench"


@dataclass(frozen=True)
class Archive:
    """A zip archive of the host: its path there, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The archive's file name, without folders."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class CocoHost:
    """The archives of COCO 2017 on a host. Sizes and hashes: tensorflow/datasets, url_checksums/coco.txt."""

    base: str
    annotations: Archive
    image_info: Archive
    images: dict[str, Archive]
    instances: Archive | None = None


COCO = CocoHost(
    base="http://images.cocodataset.org",
    annotations=Archive(
        "annotations/panoptic_annotations_trainval2017.zip",
        860_725_834,
        "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
    ),
    image_info=Archive(
        "annotations/image_info_test2017.zip",
        1_144_034,
        "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
    ),
    images={
        "val": Archive(
            "zips/val2017.zip", 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"
        ),
        "train": Archive(
            "zips/train2017.zip", 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
        ),
        "test-dev": Archive(
            "zips/test2017.zip", 6_646_970_404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba"
        ),
    },
    instances=Archive(
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
)

# The number of images in the JSON of each split, and in its archive.
N_IMAGES = {"val": 5_000, "train": 118_287, "test-dev": 20_288}
_N_IN_ARCHIVE = {"val": 5_000, "train": 118_287, "test-dev": 40_670}


@dataclass(frozen=True)
class CocoFolder:
    """The files of COCO on disk after a fetch: paths, counts, and how many bytes were downloaded.

    instances: the instance JSON, AP's ground truth in papers; None unless it was requested
    """

    root: Path
    split: str
    json: Path
    images: Path
    n_images: int
    pngs: Path | None
    n_pngs: int
    fetched: int
    instances: Path | None = None


@dataclass(frozen=True)
class CocoMissing:
    """Which files an evaluation lacks: counts, the approximate download in bytes, and the command that fetches them."""

    root: Path
    json: bool
    images: int
    pngs: int
    bytes: int
    command: str
    split: str = "val"
    archives: Path | None = None
    """A folder with some of COCO's archives, which `command` unpacks."""

    @property
    def title(self) -> str:
        """The dataset with its split, as papers call it."""
        return f"COCO {self.split if self.split == 'test-dev' else f'{self.split}2017'}"

    @property
    def what(self) -> str:
        """The missing files, in words."""
        parts = ["the panoptic JSON"] if self.json else []
        parts += [f"{self.images:,} images"] if self.images else []
        parts += [f"{self.pngs:,} ground-truth PNGs"] if self.pngs else []
        return in_sentence(parts)

    @property
    def reason(self) -> str:
        """The sentence that says which files are missing."""
        return f"{self.root} lacks {self.what}."

    @property
    def way(self) -> str:
        """The hint for errors: the command that fetches the files, and the size of the download."""
        if self.archives is not None:
            return f"unpack just {self.split} of the archives in {self.archives} with `{self.command}`"
        return f"fetch them (about {size_in_words(self.bytes)}) with `{self.command}`"


def coco_paths(root: str | os.PathLike[str], split: str) -> tuple[Path, Path, Path | None]:
    """Returns a split's JSON, folder of images and folder of id PNGs (None for test-dev) in mmdet's layout."""
    _check_split(split)
    annotations = Path(root) / "annotations"
    if split == "test-dev":
        return annotations / "panoptic_image_info_test-dev2017.json", Path(root) / "test2017", None
    return (
        annotations / f"panoptic_{split}2017.json",
        Path(root) / f"{split}2017",
        annotations / f"panoptic_{split}2017",
    )


def coco_missing(
    root: str | os.PathLike[str] = "data/coco", split: str = "val", limit: int | None = None
) -> CocoMissing | None:
    """Returns what the first `limit` images of a split lack on disk; None if nothing. Downloads nothing.

    Sizes are estimates from the archives' sizes and numbers of images; partly fetched archives count as not fetched.
    """
    json_path, image_folder, png_folder = coco_paths(root, split)
    command = ["panbench", "data", "coco"]
    command += ["--split", split] if split != "val" else []
    command += ["--limit", str(limit)] if limit is not None else []
    command += ["--root", str(root)] if Path(root) != Path("data/coco") else []
    archives = archives_below(Path(root), split)
    command += ["--from", str(archives)] if archives is not None else []
    image_bytes = COCO.images[split].size / _N_IN_ARCHIVE[split]
    annotation_bytes = COCO.annotations.size / (N_IMAGES["val"] + N_IMAGES["train"])
    json_here = json_path.is_file()
    if json_here:
        names, pngs = _image_and_png_names(json_path, limit)
        images_missing = _count_missing(image_folder, names)
        pngs_missing = _count_missing(png_folder, pngs) if png_folder else 0
    else:
        images_missing = min(limit or N_IMAGES[split], N_IMAGES[split])
        pngs_missing = images_missing if png_folder else 0
    if json_here and not images_missing and not pngs_missing:
        return None
    size = images_missing * image_bytes + pngs_missing * annotation_bytes
    if not json_here:
        # The JSON's share of the archive is unknown; a third is a safe estimate.
        size += COCO.image_info.size if split == "test-dev" else N_IMAGES[split] * annotation_bytes / 3
    what = (Path(root), not json_here, images_missing, pngs_missing, round(size), shlex.join(command), split, archives)
    return CocoMissing(*what)


def archives_below(root: Path, split: str) -> Path | None:
    """Finds a folder with COCO's published archives of a split at or below `root`; None if there is none."""
    listing = COCO.image_info if split == "test-dev" else COCO.annotations
    names = (COCO.images[split].name, listing.name)
    folders = (root, root / "annotations", root / "archives")
    return next((folder for folder in folders if any((folder / name).is_file() for name in names)), None)


def fetch_coco(
    root: str | os.PathLike[str] = "data/coco",
    split: str = "val",
    *,
    limit: int | None = None,
    instances: bool = False,
    keep_archives: bool = False,
    archives_from: str | os.PathLike[str] | None = None,
    reporter: Reporter = SILENT,
    host: CocoHost | None = None,
) -> CocoFolder:
    """Fetches missing or damaged files of COCO panoptic's `split` into `root`; the result is complete and verified.

    split: val, train, or test-dev (images and the list of images with panoptic categories; its ground truth is secret)
    limit: only the first `limit` images in the order of the JSON, and their ground truth
    instances: also instances_<split>2017.json, the ground truth of AP in papers (`eval --metrics pq,ap=FILE`)
    keep_archives: keep archives that had to be downloaded completely, in <root>/archives
    archives_from: a folder of archives downloaded before; they are verified, read in place and left there
    reporter: gets bytes downloaded, files verified, and notices
    host: the host to download from; by default COCO's own
    Raises DownloadFailed, OutOfSpace (before any download, if the size is known) and BadArgument.
    After an interruption the same call resumes; no file has wrong content under its final name.
    """
    _check_split(split)
    if limit is not None and limit < 1:
        raise BadArgument(f"The limit must be at least 1, not {limit}.")
    if archives_from is not None and not Path(archives_from).is_dir():
        raise BadArgument(f"{archives_from} is not a folder. Give the folder of the archives.")
    if instances and split == "test-dev":
        raise BadArgument("The ground truth of test-dev is secret. Leave out --instances.")
    own = None if archives_from is None else Path(archives_from)
    job = _Fetch(Path(root), split, limit, instances, keep_archives, own, reporter, host or COCO)
    try:
        return job.run()
    except Unreachable as error:
        names = in_sentence([archive.name for archive in job.archives])
        raise Unreachable(
            error.reason,
            ways=[
                Way(f"without a network, fetch {names} elsewhere and run `panbench data coco --from FOLDER`", "--from"),
                Way(f"without a network, copy {root} here from a machine that has COCO", "--model"),
                WITHOUT_DOWNLOAD,
            ],
        ) from error
    except OSError as error:
        raise DownloadFailed(f"Cannot write to {root}: {error.strerror or error} ({error.filename}).") from error
    finally:
        job.close()


def panoptic_categories() -> list[dict[str, Any]]:
    """Returns COCO's 133 panoptic categories as JSON records: id, name, isthing, supercategory, color."""
    text = resources.files("panbench.datasets").joinpath("coco_categories.json").read_text("utf-8")
    categories: list[dict[str, Any]] = json.loads(text)
    return categories


class _DatasetFolderState:
    """Sizes and CRCs of the files of a folder, as in their archive, and which of them were verified on disk."""

    def __init__(self, state: Path, folder: Path, archive: Archive) -> None:
        """Reads what an earlier call stored on the files in `folder`; `state` is its JSON in `.panbench/`."""
        self.folder = folder
        self._state = state
        self._origin = {"archive": archive.path, "size": archive.size}
        self.files: dict[str, tuple[int, int]] = {}
        self._verified: dict[str, int] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(state.read_bytes())
            if record["schema"] == 1 and record["origin"] == self._origin:
                self.files = {name: (int(size), int(crc)) for name, (size, crc) in record["files"].items()}
                self._verified = {name: int(time) for name, time in record["verified"].items()}

    def record_archive_members(self, members: Iterable[zipfile.ZipInfo]) -> None:
        """Records the sizes and CRCs of an archive's members, by file name without folders."""
        self.files.update((PurePosixPath(one.filename).name, (one.file_size, one.CRC)) for one in members)
        self._changed = True

    def missing_files(self, names: Sequence[str], progress: Counting = lambda done, total: None) -> list[str]:
        """Returns which files are missing or differ from the archive; only files that changed are read again."""

        def is_missing_or_changed(name: str) -> bool:
            """True if a file is missing or differs; else marks it as verified."""
            path = self.folder / name
            try:
                status = path.stat()
                if status.st_size != self.files[name][0]:
                    return True
                if self._verified.get(name) == status.st_mtime_ns:
                    return False
                if crc_of(path) != self.files[name][1]:
                    return True
            except OSError:
                return True
            self._verified[name] = status.st_mtime_ns
            self._changed = True
            return False

        found = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for number, (name, bad) in enumerate(
                zip(names, pool.map(is_missing_or_changed, names, chunksize=64), strict=True)
            ):
                if bad:
                    found.append(name)
                if number % 64 == 0:
                    progress(number, len(names))
        return found

    def mark_verified(self, names: Iterable[str]) -> None:
        """Marks files as verified that were just written with their CRC checked."""
        for name in names:
            self._verified[name] = (self.folder / name).stat().st_mtime_ns
        self._changed = True

    def save(self) -> None:
        """Stores the sizes, CRCs and times of verification in `.panbench/`, if any changed."""
        if self._changed:
            verified = {name: time for name, time in self._verified.items() if name in self.files}
            write_json(
                self._state,
                {"schema": 1, "origin": self._origin, "files": self.files, "verified": verified},
                indent=None,
            )
            self._changed = False


@dataclass
class _Fetch:
    """Fetches COCO: the state of one call of `fetch_coco`."""

    root: Path
    split: str
    limit: int | None
    instances: bool
    keep: bool
    archives_from: Path | None
    reporter: Reporter
    host: CocoHost

    def __post_init__(self) -> None:
        """Starts with no open archives and no downloaded bytes."""
        self._readers: dict[str, RangeReader] = {}
        self._opened: dict[str, ZipArchive] = {}
        self._downloaded = 0
        # Folders whose complete archive was downloaded although few files were needed: unpack the others too.
        self._complete_folders: set[str] = set()

    def run(self) -> CocoFolder:
        """Fetches JSONs, id PNGs and images in this order, then removes temporary archives."""
        json_path, image_folder, png_folder = coco_paths(self.root, self.split)
        archive, instances = self.archives[0], None
        if self.split == "test-dev":
            self._write_test_dev_json(json_path)
        else:
            self._fetch_dataset_json(json_path, archive)
        if self.instances:
            instances = json_path.parent / f"instances_{self.split}2017.json"
            self._fetch_dataset_json(instances, self.archives[2])
        names, pngs = _image_and_png_names(json_path, self.limit)
        if png_folder is not None:
            self._fetch_dataset_folder(self._dataset_folder_state(png_folder, archive), pngs, self._inner_archive)
        self._fetch_dataset_folder(
            self._dataset_folder_state(image_folder, self.archives[1]), names, self._image_archive
        )
        fetched = self._downloaded + sum(reader.fetched for reader in self._readers.values())
        self._clear_temporary_archives()
        n_pngs = len(pngs) if png_folder else 0
        return CocoFolder(
            self.root, self.split, json_path, image_folder, len(names), png_folder, n_pngs, fetched, instances
        )

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The archives of the split: of its JSON, of its images, and of the instances if requested."""
        first = self.host.image_info if self.split == "test-dev" else self.host.annotations
        more = (self.host.instances,) if self.instances and self.host.instances is not None else ()
        return (first, self.host.images[self.split], *more)

    def close(self) -> None:
        """Closes all opened archives."""
        for reader in self._readers.values():
            reader.close()

    # The JSONs

    def _fetch_dataset_json(self, path: Path, archive: Archive) -> None:
        """Fetches one JSON from an archive, unless it exists and is unchanged."""
        state = self._dataset_folder_state(path.parent, archive, path.name)
        inside = f"annotations/{path.name}"
        if path.name not in state.files:
            state.record_archive_members([_member_named(inside, self._open_archive(archive))])
        if state.missing_files([path.name]):
            opened = self._open_archive(archive)
            member = _member_named(inside, opened)
            require_space(self.root, member.file_size + member.compress_size, str(path))
            opened.fetch(member, path, self._progress_counter(path.name))
            state.mark_verified([path.name])
        state.save()

    def _write_test_dev_json(self, path: Path) -> None:
        """Writes the JSON of test-dev: the host's list of images with the panoptic categories."""
        plain = path.parent / "image_info_test-dev2017.json"
        self._fetch_dataset_json(plain, self.host.image_info)
        # The host's list has the 80 detection categories; a submission needs the 133 panoptic ones.
        document = {**read_json(plain, ("images",)), "categories": panoptic_categories(), "annotations": []}
        content = json.dumps(document).encode()
        if not path.is_file() or path.stat().st_size != len(content) or crc_of(path) != zlib.crc32(content):
            with atomic_write(path) as handle:
                handle.write(content)

    # The files of a folder

    def _fetch_dataset_folder(
        self,
        state: _DatasetFolderState,
        names: Sequence[str],
        archive_for: Callable[[_DatasetFolderState, Sequence[str]], ZipArchive],
    ) -> None:
        """Fetches the named files of a folder that are missing or differ from the archive."""
        label = state.folder.name
        # On the first call, the archive's list gives the sizes and CRCs; later calls read them from `.panbench/`.
        if not all(name in state.files for name in names):
            opened = archive_for(state, ())
            for name in names:
                _member_named(f"{label}/{name}", opened)
            state.record_archive_members(
                one for one in opened.members.values() if str(PurePosixPath(one.filename).parent) == label
            )
            state.save()
        missing = state.missing_files(names, self._progress_counter(f"verifying {label}", "files"))
        _remove_old_temporary_files(state.folder)
        if missing:
            opened = archive_for(state, missing)
            if label in self._complete_folders:
                missing = state.missing_files(list(state.files))
            requested = [opened.members[f"{label}/{name}"] for name in missing]
            size, count = sum(member.file_size for member in requested), self._progress_counter(label)
            require_space(self.root, size, f"{state.folder} ({len(requested):,} files)")
            opened.extract(
                requested,
                lambda member: state.folder / PurePosixPath(member.filename).name,
                lambda done: count(done, size),
            )
            state.mark_verified(missing)
        state.save()

    def _image_archive(self, state: _DatasetFolderState, missing: Sequence[str]) -> ZipArchive:
        """Opens the archive of the images; downloads it completely if most images are missing."""
        archive = self.archives[1]
        opened = self._open_archive(archive)
        packed = sum(opened.members[f"{state.folder.name}/{name}"].compress_size for name in missing)
        if packed < _COMPLETE_SHARE * archive.size or local_path_of_url(self._archive_reader(archive).url) is not None:
            return opened
        unpacked = sum(state.files[name][0] for name in missing)
        needed = archive.size - _size_on_disk(self._temporary_archives / f"{archive.name}.part") + unpacked
        require_space(self.root, needed, f"{archive.name} with its unpacked files")
        return self._download_archive(archive)

    def _inner_archive(self, state: _DatasetFolderState, missing: Sequence[str]) -> ZipArchive:
        """Opens the zip of id PNGs that is inside the zip of annotations; in place if it is stored uncompressed."""
        outer, label = self.archives[0], state.folder.name
        opened = self._open_archive(outer)
        member = _member_named(f"annotations/{label}.zip", opened)
        local = self._temporary_archives / f"{label}.zip"
        for path in (self._kept_archives / local.name, local):
            if _size_on_disk(path) == member.file_size and crc_of(path) == member.CRC:
                return self._open_zip(str(path), RangeReader(path))
        if member.compress_type == zipfile.ZIP_STORED:
            inner = self._open_zip(f"{member.filename} in {outer.name}", StoredMember(opened, member))
            packed = sum(inner.members[f"{label}/{name}"].compress_size for name in missing)
            if (
                packed < _COMPLETE_SHARE * member.file_size
                or local_path_of_url(self._archive_reader(outer).url) is not None
            ):
                return inner
        needed = 2 * member.file_size + member.compress_size
        require_space(self.root, needed, f"{member.filename} with its unpacked files")
        opened.fetch(member, local, self._progress_counter(local.name))
        self._complete_folders.add(label)
        return self._open_zip(str(local), RangeReader(local))

    # Archives

    @property
    def _kept_archives(self) -> Path:
        """The folder for archives that the user wants to keep."""
        return self.root / "archives"

    @property
    def _temporary_archives(self) -> Path:
        """The folder for archives until they are unpacked; a call after an interruption uses them."""
        return self.root / _STATE_FOLDER / "archives"

    def _clear_temporary_archives(self) -> None:
        """Removes the archives that were only needed for unpacking; with `keep`, moves them to <root>/archives."""
        if not self._temporary_archives.is_dir():
            return
        for path in self._temporary_archives.iterdir():
            if self.keep and path.suffix == ".zip":
                self._kept_archives.mkdir(exist_ok=True)
                os.replace(path, self._kept_archives / path.name)
            else:
                path.unlink()
        self._temporary_archives.rmdir()

    def _open_zip(self, where: str, source: ByteSource) -> ZipArchive:
        """Opens a zip, or returns it opened before. where: its name in messages, by which it is cached"""
        if where not in self._opened:
            self._opened[where] = ZipArchive(source, where)
        return self._opened[where]

    def _open_archive(self, archive: Archive) -> ZipArchive:
        """Opens an archive of the host by byte ranges; downloads it if the server cannot send ranges."""
        if archive.name not in self._opened:
            self._progress_counter(f"reading the list of {archive.name}")(0, None)
        try:
            return self._open_zip(archive.name, self._archive_reader(archive))
        except RangesUnsupported:
            self.reporter.notice(
                f"{archive.name} cannot be read in parts from this server; fetching the whole archive."
            )
            return self._download_archive(archive)

    def _archive_reader(self, archive: Archive) -> RangeReader:
        """Opens a reader of an archive's nearest copy: --from, fetched before, a local mirror, or the host."""
        if archive.path in self._readers:
            return self._readers[archive.path]
        address = mirrored_url(f"{self.host.base}/{archive.path}")
        mirror = local_path_of_url(address)
        own = [] if self.archives_from is None else [self.archives_from / archive.name]
        near = [
            *own,
            self._kept_archives / archive.name,
            self._temporary_archives / archive.name,
            *([mirror] if mirror else []),
        ]
        for path in near:
            if path.is_file():
                self._progress_counter(f"verifying {archive.name}", "files")(0, None)
                problem = file_mismatch(path, archive.sha256, archive.size)
                if problem is None:
                    address = str(path)
                    break
                if path.parent not in (self._kept_archives, self._temporary_archives):
                    raise DownloadFailed(
                        f"{path} is not COCO's {archive.name}: {problem}. Fetch it again or remove it."
                    )
        else:
            if own:
                self.reporter.notice(
                    f"{archive.name} is not in {self.archives_from}; reading it from {without_secrets(address)}."
                )
        reader = self._readers[archive.path] = RangeReader(address)
        if local_path_of_url(address) is None and reader.size() != archive.size:
            raise DownloadFailed(
                f"{without_secrets(address)} has {reader.size():,} bytes where COCO's {archive.name} has "
                f"{archive.size:,}: not the same file."
            )
        return reader

    def _download_archive(self, archive: Archive) -> ZipArchive:
        """Downloads a complete archive and opens it, in place of reading byte ranges from the host."""
        target = self._temporary_archives / archive.name
        self._downloaded += archive.size - _size_on_disk(target.with_name(f"{target.name}.part"))
        url = f"{self.host.base}/{archive.path}"
        download(url, target, sha256=archive.sha256, size=archive.size, progress=self._progress_counter(archive.name))
        if (before := self._readers.pop(archive.path, None)) is not None:
            self._downloaded += before.fetched
            before.close()
        self._opened.pop(archive.name, None)
        self._readers[archive.path] = RangeReader(target)
        return self._open_zip(archive.name, self._readers[archive.path])

    # Helpers

    def _dataset_folder_state(self, folder: Path, archive: Archive, name: str | None = None) -> _DatasetFolderState:
        """Returns what is stored on the files of a folder: sizes and CRCs, and which were verified."""
        state = self.root / _STATE_FOLDER / f"{name or folder.name}.json"
        return _DatasetFolderState(state, folder, archive)

    def _progress_counter(self, label: str, unit: Unit = "bytes") -> Counting:
        """Returns a function of (done, total) that reports the progress of one task to the Reporter."""
        return counter(self.reporter, label, unit)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise BadArgument(f"COCO panoptic has no split {split!r}. The splits are {', '.join(SPLITS)}.")


def _member_named(name: str, archive: ZipArchive) -> zipfile.ZipInfo:
    """Returns a member of an archive. Raises DownloadFailed if there is none of that name."""
    try:
        return archive.members[name]
    except KeyError:
        raise DownloadFailed(f"{archive.where} has no {name}: not the archive that COCO publishes.") from None


def _image_and_png_names(path: Path, limit: int | None) -> tuple[list[str], list[str]]:
    """Reads the file names of the first `limit` images of a panoptic JSON, and of their id PNGs."""
    document = read_json(path, ("images",))
    try:
        images = document["images"][:limit]
        png_of = {record["image_id"]: str(record["file_name"]) for record in document.get("annotations", ())}
        names = [str(image["file_name"]) for image in images]
        pngs = [png_of[image["id"]] for image in images if image["id"] in png_of]
    except (KeyError, TypeError) as error:
        raise BadDataset(f"{path} is not a panoptic JSON ({error!r}). Remove it and fetch again.") from error
    strange = [name for name in names + pngs if leaves_folder(name)]
    if strange:
        raise BadDataset(f"{path} names {strange[0]!r}, which leaves its folder. Remove the file and fetch again.")
    return names, pngs


def _count_missing(folder: Path, names: Iterable[str]) -> int:
    """Counts the files that a folder lacks or has empty."""
    try:
        with os.scandir(folder) as entries:
            here = {entry.name for entry in entries if entry.stat().st_size > 0}
    except OSError:
        here = set()
    return sum(name not in here for name in names)


def _remove_old_temporary_files(folder: Path) -> None:
    """Removes temporary files of killed calls; those younger than a minute may belong to a running one."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 60:
                path.unlink()


def _size_on_disk(path: Path) -> int:
    """Returns the size of a file in bytes; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
