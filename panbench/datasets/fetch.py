"""Downloads COCO panoptic: only what is needed, verified; missing and damaged files are repaired.

    data/coco/<split>2017/*.jpg · annotations/panoptic_<split>2017.json · annotations/panoptic_<split>2017/*.png

Archives are read by byte ranges, so validation annotations do not cost a download of the training part, and fifty
images cost fifty images. `.panbench/` in the root stores sizes and CRCs, so a second call needs no network.
"""

import contextlib
import functools
import json
import os
import shlex
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from panbench.base.download import (
    RangeReader,
    RangesUnsupported,
    download,
    local_path,
    mirrored,
    require_space,
    what_is_wrong,
)
from panbench.base.errors import WITHOUT_DOWNLOAD, BadArgument, BadDataset, DownloadFailed, Unreachable, Way
from panbench.base.files import atomic_write, leaves_folder, write_json
from panbench.base.reporter import SILENT, Reporter, Unit
from panbench.base.secrets import without_secrets
from panbench.base.text import in_sentence
from panbench.base.zips import ByteSource, Member, Slice, ZipArchive, crc_of

SPLITS = ("val", "train", "test-dev")

# Above this share, the whole archive is fetched (one request, SHA-256) rather than single members.
_WHOLE_SHARE = 0.6
_CONNECTIONS = 8
_STATE_FOLDER = ".panbench"


@dataclass(frozen=True)
class Archive:
    """A file of the host: its path there, size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class CocoHost:
    """Where COCO 2017 comes from. Sizes and hashes: tensorflow/datasets, url_checksums/coco.txt."""

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

# How many images the JSON of each split lists, and how many its archive holds.
N_IMAGES = {"val": 5_000, "train": 118_287, "test-dev": 20_288}
_N_IN_ARCHIVE = {"val": 5_000, "train": 118_287, "test-dev": 40_670}


@dataclass(frozen=True)
class CocoFolder:
    """What is on disk after a fetch: paths, counts, and the bytes that were downloaded for it.

    instances: the instance JSON, AP's ground truth in papers; None unless it was asked for
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
    """What is missing for an evaluation: counts, the approximate download in bytes, and the command that fetches it."""

    root: Path
    json: bool
    images: int
    pngs: int
    bytes: int
    command: str
    split: str = "val"
    archives: Path | None = None
    """A folder that has some of COCO's archives, from which `command` unpacks."""

    @property
    def title(self) -> str:
        """The dataset and its split, as papers call it."""
        return f"COCO {self.split if self.split == 'test-dev' else f'{self.split}2017'}"

    @property
    def what(self) -> str:
        """What is missing, in words."""
        parts = ["the panoptic JSON"] if self.json else []
        parts += [f"{self.images:,} images"] if self.images else []
        parts += [f"{self.pngs:,} ground-truth PNGs"] if self.pngs else []
        return in_sentence(parts)

    @property
    def reason(self) -> str:
        """What is missing, in a sentence."""
        return f"{self.root} lacks {self.what}."

    @property
    def way(self) -> str:
        """The command that fetches it, and the size, as a way out of an error."""
        if self.archives is not None:
            return f"unpack just {self.split} of the archives in {self.archives} with `{self.command}`"
        return f"fetch them (about {_readable(self.bytes)}) with `{self.command}`"


def coco_paths(root: str | os.PathLike[str], split: str) -> tuple[Path, Path, Path | None]:
    """A split's JSON, folder of images and folder of id PNGs (None for test-dev), as mmdet lays them out."""
    _known_split(split)
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
    """What of the first `limit` images of a split is not on disk; None when nothing is. Downloads nothing.

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
        names, pngs = _names_in(json_path, limit)
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
    """The folder that has some of the archives of a split, as COCO publishes them; None where there are none."""
    listing = COCO.image_info if split == "test-dev" else COCO.annotations
    names = (COCO.images[split].name, listing.name)
    places = (root, root / "annotations", root / "archives")
    return next((place for place in places if any((place / name).is_file() for name in names)), None)


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
    sleep: Callable[[float], object] | None = None,
) -> CocoFolder:
    """Fetches what is missing or damaged of COCO panoptic's `split` under `root`; the result is complete and verified.

    split: val, train, or test-dev (images and the list of images with panoptic categories; its ground truth is secret)
    limit: only the first so many images in the order of the JSON, and their ground truth
    instances: also instances_<split>2017.json, the ground truth of AP in papers (`eval --metrics pq,ap=FILE`)
    keep_archives: leave the archives that had to be fetched whole in <root>/archives
    archives_from: a folder of archives fetched before; they are verified, read in place and left there
    reporter: gets bytes downloaded, files verified, and notices
    host: where COCO comes from; by default its own host
    Raises DownloadFailed, OutOfSpace (before anything is fetched, where that can be known) and BadArgument.
    After an interruption the same call resumes; no file has wrong content under its final name.
    """
    _known_split(split)
    if limit is not None and limit < 1:
        raise BadArgument(f"The limit must be at least 1, not {limit}.")
    if archives_from is not None and not Path(archives_from).is_dir():
        raise BadArgument(f"{archives_from} is not a folder. Give the folder of the archives.")
    if instances and split == "test-dev":
        raise BadArgument("The ground truth of test-dev is secret: it has no instances to fetch.")
    job = _Fetch(
        Path(root),
        split,
        limit,
        instances,
        keep_archives,
        Path(archives_from) if archives_from is not None else None,
        reporter,
        host or COCO,
        sleep,
    )
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
    """COCO's 133 panoptic categories as JSON records: id, name, isthing, supercategory, color."""
    text = resources.files("panbench.datasets").joinpath("coco_categories.json").read_text("utf-8")
    categories: list[dict[str, Any]] = json.loads(text)
    return categories


class _Tree:
    """The files of one folder as listed in an archive: sizes, CRCs, and which of them were verified on disk."""

    def __init__(self, state: Path, folder: Path, archive: Archive) -> None:
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

    def learn(self, members: Iterable[Member]) -> None:
        """Records the sizes and CRCs of members, by file name without folders."""
        self.files.update((PurePosixPath(member.name).name, (member.size, member.crc)) for member in members)
        self._changed = True

    def missing(self, names: Sequence[str], progress: Callable[[int, int], None]) -> list[str]:
        """The names whose file is missing or differs from the archive; files unchanged since verified pass."""

        def wrong(name: str) -> bool:
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
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for number, (name, bad) in enumerate(zip(names, pool.map(wrong, names, chunksize=64), strict=True)):
                if bad:
                    found.append(name)
                if number % 64 == 0:
                    progress(number, len(names))
        return found

    def wrote(self, names: Iterable[str]) -> None:
        """Marks files as verified that were just written with their CRC checked."""
        for name in names:
            self._verified[name] = (self.folder / name).stat().st_mtime_ns
        self._changed = True

    def save(self) -> None:
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
    """One call of `fetch_coco`."""

    root: Path
    split: str
    limit: int | None
    instances: bool
    keep: bool
    archives_from: Path | None
    reporter: Reporter
    host: CocoHost
    sleep: Callable[[float], object] | None

    def __post_init__(self) -> None:
        self._readers: dict[str, RangeReader] = {}
        self._opened: dict[str, ZipArchive] = {}
        self._downloaded = 0
        # Folders whose whole archive was fetched although few files were needed: unpack the others too.
        self._came_whole: set[str] = set()

    def run(self) -> CocoFolder:
        json_path, image_folder, png_folder = coco_paths(self.root, self.split)
        archive = self.archives[0]
        instances = None
        if self.split == "test-dev":
            self._list_of_test_images(json_path)
        else:
            self._annotation_json(json_path, self.host.annotations)
        if self.instances:
            assert self.host.instances is not None
            instances = json_path.parent / f"instances_{self.split}2017.json"
            self._annotation_json(instances, self.host.instances)
        names, pngs = _names_in(json_path, self.limit)
        if png_folder is not None:
            self._complete(self._tree(png_folder, archive), pngs, self._inner_archive)
        try:
            self._complete(self._tree(image_folder, self.host.images[self.split]), names, self._image_archive)
        except RangesUnsupported:
            self._notice(
                f"{self.host.images[self.split].name} cannot be read in parts from this server; fetching single images."
            )
            self._single_images(json_path, image_folder, names)
        fetched = self._downloaded + sum(reader.fetched for reader in self._readers.values())
        self._tidy()
        return CocoFolder(
            self.root,
            self.split,
            json_path,
            image_folder,
            len(names),
            png_folder,
            len(pngs) if png_folder else 0,
            fetched,
            instances,
        )

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The archives that the split comes from, that of its JSON first."""
        first = self.host.image_info if self.split == "test-dev" else self.host.annotations
        more = (self.host.instances,) if self.instances and self.host.instances is not None else ()
        return (first, self.host.images[self.split], *more)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()

    # The JSONs

    def _annotation_json(self, path: Path, archive: Archive) -> None:
        inside = f"annotations/{path.name}"
        tree = self._tree(path.parent, archive, path.name)
        if path.name not in tree.files:
            tree.learn([_found(inside, self._open(archive))])
        if tree.missing([path.name], _nothing):
            opened = self._open(archive)
            member = _found(inside, opened)
            require_space(self.root, member.size + member.packed_size, str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            opened.fetch(member, path, progress=lambda done, total: self._report(path.name, done, total))
            tree.wrote([path.name])
        tree.save()

    def _list_of_test_images(self, path: Path) -> None:
        plain = path.parent / "image_info_test-dev2017.json"
        archive = self.host.image_info
        tree = self._tree(plain.parent, archive, plain.name)
        if plain.name not in tree.files or tree.missing([plain.name], _nothing):
            opened = self._open(archive)
            member = _found(f"annotations/{plain.name}", opened)
            tree.learn([member])
            plain.parent.mkdir(parents=True, exist_ok=True)
            opened.extract([member], lambda _: plain)
            tree.wrote([plain.name])
            tree.save()
        # The host's list has the 80 detection categories; a submission needs the 133 panoptic ones.
        document = {**_read_json(plain), "categories": panoptic_categories(), "annotations": []}
        content = json.dumps(document).encode()
        if not path.is_file() or path.stat().st_size != len(content) or crc_of(path) != zlib.crc32(content):
            with atomic_write(path) as handle:
                handle.write(content)

    # The files of a folder

    def _complete(
        self,
        tree: _Tree,
        names: Sequence[str],
        archive_for: Callable[[_Tree, Sequence[str] | None], ZipArchive],
    ) -> None:
        """Fetches the named files of a folder that are missing or differ from the archive."""
        label = tree.folder.name
        if not all(name in tree.files for name in names):
            opened = archive_for(tree, None)
            for name in names:
                _found(f"{label}/{name}", opened)
            tree.learn(member for member in opened.members.values() if str(PurePosixPath(member.name).parent) == label)
            tree.save()
        missing = tree.missing(names, lambda done, total: self._report(f"verifying {label}", done, total))
        _remove_leftovers(tree.folder)
        if missing:
            opened = archive_for(tree, missing)
            if label in self._came_whole:
                missing = tree.missing(list(tree.files), _nothing)
            wanted = [opened.members[f"{label}/{name}"] for name in missing]
            size = sum(member.size for member in wanted)
            require_space(self.root, size, f"{tree.folder} ({len(wanted):,} files)")
            opened.extract(
                wanted,
                lambda member: tree.folder / PurePosixPath(member.name).name,
                progress=lambda done: self._report(label, done, size),
                connections=_CONNECTIONS,
            )
            tree.wrote(missing)
        tree.save()

    def _image_archive(self, tree: _Tree, missing: Sequence[str] | None) -> ZipArchive:
        """The archive of the images. `missing` None: only their list is needed."""
        archive = self.host.images[self.split]
        opened = self._open(archive)
        if missing is not None and local_path(self._reader(archive).url) is None:
            packed = sum(opened.members[f"{tree.folder.name}/{name}"].packed_size for name in missing)
            if packed >= _WHOLE_SHARE * archive.size:
                unpacked = sum(tree.files[name][0] for name in missing)
                arrived = _size_of(self._temporary / f"{archive.name}.part")
                require_space(self.root, archive.size - arrived + unpacked, f"{archive.name} with its unpacked files")
                self._fetch_whole(archive)
                opened = self._open(archive)
        return opened

    def _inner_archive(self, tree: _Tree, missing: Sequence[str] | None) -> ZipArchive:
        """The archive of the id PNGs: the zip within the annotations' zip, read in place if stored uncompressed."""
        outer = self.host.annotations
        opened = self._open(outer)
        member = _found(f"annotations/{tree.folder.name}.zip", opened)
        where = f"{member.name} in {outer.name}"
        name = PurePosixPath(member.name).name
        reader = self._reader(outer)
        for kept in (self._archives / name, self._temporary / name):
            if kept.is_file() and kept.stat().st_size == member.size and crc_of(kept) == member.crc:
                return self._open_inner(str(kept), functools.partial(RangeReader, kept))
        if member.is_stored:
            inner = self._open_inner(where, functools.partial(_inside, opened, member))
            packed = sum(inner.members[f"{tree.folder.name}/{name}"].packed_size for name in missing or ())
            if local_path(reader.url) is not None or packed < _WHOLE_SHARE * member.size:
                return inner
        require_space(self.root, 2 * member.size + member.packed_size, f"{member.name} with its unpacked files")
        self._temporary.mkdir(parents=True, exist_ok=True)
        kept = self._temporary / name
        opened.fetch(member, kept, progress=lambda done, total: self._report(name, done, total))
        self._came_whole.add(tree.folder.name)
        return self._open_inner(str(kept), functools.partial(RangeReader, kept))

    def _open_inner(self, where: str, source: Callable[[], ByteSource]) -> ZipArchive:
        """A zip that was in a zip, by the place where it is read; its list is read once."""
        if where not in self._opened:
            self._opened[where] = ZipArchive(source(), where)
        return self._opened[where]

    def _single_images(self, json_path: Path, folder: Path, names: Sequence[str]) -> None:
        """Images one by one from the host, for servers without ranges. Without a CRC, each is decoded instead."""
        wanted = set(names)
        sizes = {
            image["file_name"]: (int(image["width"]), int(image["height"]))
            for image in _read_json(json_path)["images"]
            if image["file_name"] in wanted
        }

        def fetch(name: str) -> int:
            def check(path: Path) -> str | None:
                return _image_problem(path, sizes[name])

            target = folder / name
            if target.is_file() and check(target) is None:
                return 0
            target.unlink(missing_ok=True)
            url = f"{self.host.base}/{folder.name}/{name}"
            download(url, target, check=check, sleep=self.sleep)
            return target.stat().st_size

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for number, size in enumerate(pool.map(fetch, names), 1):
                self._downloaded += size
                self._report(f"images of {folder.name}", number, len(names))

    # Archives

    @property
    def _archives(self) -> Path:
        """The folder of archives that the user keeps."""
        return self.root / "archives"

    @property
    def _temporary(self) -> Path:
        """The folder of archives needed until they are unpacked; an interrupted call leaves them for the next."""
        return self.root / _STATE_FOLDER / "archives"

    def _tidy(self) -> None:
        if not self._temporary.is_dir():
            return
        for path in self._temporary.iterdir():
            if self.keep and path.suffix == ".zip":
                self._archives.mkdir(exist_ok=True)
                os.replace(path, self._archives / path.name)
            else:
                path.unlink()
        self._temporary.rmdir()

    def _open(self, archive: Archive) -> ZipArchive:
        """An archive of the host with its list of members."""
        if archive.path not in self._opened:
            self._report(f"reading the list of {archive.name}", 0, None)
            try:
                self._opened[archive.path] = ZipArchive(self._reader(archive), archive.name)
            except RangesUnsupported:
                if self.limit is not None and archive is self.host.images[self.split]:
                    raise
                self._notice(f"{archive.name} cannot be read in parts from this server; fetching the whole archive.")
                self._opened[archive.path] = ZipArchive(self._fetch_whole(archive), archive.name)
        return self._opened[archive.path]

    def _reader(self, archive: Archive) -> RangeReader:
        """The archive at its nearest place: --from, fetched before, a mirror on this machine, or the host."""
        if archive.path in self._readers:
            return self._readers[archive.path]
        address = mirrored(f"{self.host.base}/{archive.path}")
        near = [self._archives / archive.name, self._temporary / archive.name]
        if self.archives_from is not None:
            near.insert(0, self.archives_from / archive.name)
        mirror = local_path(address)
        if mirror is not None:
            near.append(mirror)
        for path in near:
            if path.is_file():
                self._report(f"verifying {archive.name}", 0, None)
                problem = what_is_wrong(path, archive.sha256, archive.size)
                if problem is None:
                    address = str(path)
                    break
                if path.parent not in (self._archives, self._temporary):
                    raise DownloadFailed(
                        f"{path} is not COCO's {archive.name}: {problem}. Fetch it again or remove it."
                    )
        else:
            if self.archives_from is not None:
                self._notice(
                    f"{archive.name} is not in {self.archives_from}; reading it from {without_secrets(address)}."
                )
        self._readers[archive.path] = RangeReader(address, sleep=self.sleep or time.sleep)
        if local_path(address) is None and self._readers[archive.path].size() != archive.size:
            raise DownloadFailed(
                f"{without_secrets(address)} has {self._readers[archive.path].size():,} bytes where COCO's "
                f"{archive.name} has {archive.size:,}: not the same file."
            )
        return self._readers[archive.path]

    def _fetch_whole(self, archive: Archive) -> RangeReader:
        target = self._temporary / archive.name
        url = f"{self.host.base}/{archive.path}"
        counted = self._counted(archive.name)
        download(url, target, sha256=archive.sha256, size=archive.size, progress=counted, sleep=self.sleep)
        before = self._readers.pop(archive.path, None)
        if before is not None:
            self._downloaded += before.fetched
            before.close()
        # What was opened reads from the place that was just closed.
        self._opened.pop(archive.path, None)
        self._readers[archive.path] = RangeReader(target)
        return self._readers[archive.path]

    # Small things

    def _tree(self, folder: Path, archive: Archive, name: str | None = None) -> _Tree:
        state = self.root / _STATE_FOLDER / f"{name or folder.name}.json"
        return _Tree(state, folder, archive)

    def _counted(self, label: str) -> Callable[[int, int | None], None]:
        """Passes progress on, and adds what this call (not an earlier one) downloaded to the bytes fetched."""
        last: list[int] = []

        def report(done: int, total: int | None) -> None:
            if last:
                # A download that had to start over counts again from 0.
                self._downloaded += done - last[0] if done >= last[0] else done
            last[:] = [done]
            self._report(label, done, total)

        return report

    def _report(self, label: str, done: int, total: int | None) -> None:
        unit: Unit = "files" if label.startswith(("verifying ", "images of ")) else "bytes"
        self.reporter.progress(label, done, total, unit)

    def _notice(self, sentence: str) -> None:
        self.reporter.notice(sentence)


def _known_split(split: str) -> None:
    if split not in SPLITS:
        raise BadArgument(f"COCO panoptic has no split {split!r}. The splits are {', '.join(SPLITS)}.")


def _found(name: str, archive: ZipArchive) -> Member:
    try:
        return archive.members[name]
    except KeyError:
        raise DownloadFailed(f"{archive.where} has no {name}: not the archive that COCO publishes.") from None


def _inside(archive: ZipArchive, member: Member) -> Slice:
    """A member that lies in the archive unpacked, as a source of its own."""
    start = archive.data_start(member)
    return Slice(archive.source, start, start + member.size)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadDataset(f"{path} cannot be read as JSON ({error}). Remove it and fetch again.") from error
    if not isinstance(document, dict):
        raise BadDataset(f"{path} is not a panoptic JSON. Remove it and fetch again.")
    return document


def _names_in(path: Path, limit: int | None) -> tuple[list[str], list[str]]:
    """File names of the first `limit` images of a panoptic JSON, and those of their id PNGs."""
    document = _read_json(path)
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
    try:
        with os.scandir(folder) as entries:
            here = {entry.name for entry in entries if entry.stat().st_size > 0}
    except OSError:
        here = set()
    return sum(name not in here for name in names)


def _remove_leftovers(folder: Path) -> None:
    """Removes temporary files of killed calls; those younger than a minute may belong to a running one."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 60:
                path.unlink()


def _image_problem(path: Path, size: tuple[int, int]) -> str | None:
    try:
        with Image.open(path) as image:
            if image.size != size:
                return f"it is an image of {image.size[0]}×{image.size[1]}, not {size[0]}×{size[1]}"
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"it is not a complete image ({error})"
    return None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _readable(size: float) -> str:
    """Bytes for a person: 4.2 MB, 850 MB, 19.3 GB (powers of ten, as providers count)."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 99.5 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _nothing(done: int, total: int) -> None:
    pass
