"""Files from the web, and what is in an archive: fetched, read in memory, never unpacked."""
import hashlib
import http.client
import lzma
import os
import re
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from data.splits import DataError


def download(address: str, path: Path, sha256: str | None = None) -> None:
    """Fetch `address` into `path`; what a cut connection has left in `path`.part is continued. `sha256`: the digest
    that is expected; a file with another is deleted. Raises DataError."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            if reply.status != 206:  # the server sends everything from the start
                have = 0
            total = None if reply.length is None else have + reply.length
            with (open(part, "ab" if have else "wb") as file,
                  tqdm(desc=path.name, total=total, initial=have, unit="B", unit_scale=True) as bar):
                while chunk := reply.read(1 << 16):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and part.stat().st_size < total:  # read() does not complain about a cut connection
            raise ConnectionError(f"the connection was cut after {part.stat().st_size:,} of {total:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        # 416: there is nothing after the bytes that we have. The file was complete, only its check was interrupted.
        if not (isinstance(error, urllib.error.HTTPError) and error.code == 416):
            reason = getattr(error, "reason", None) or error
            raise DataError(f"{address}: cannot be downloaded ({reason}). The same command continues where this one stopped; "
                            "a copy that you have elsewhere is named by --source FOLDER_OR_ARCHIVE") from None
    if sha256 and (found := hashlib.sha256(part.read_bytes()).hexdigest()) != sha256:
        part.unlink()
        raise DataError(f"{address}: expected a file with sha256 {sha256}, found {found}; it has been removed")
    os.replace(part, path)


class BrokenArchive(DataError):
    """An archive of which nothing can be read."""


def read_source(source: Path, wanted: str) -> dict[str, str]:
    """The corpus's files in a folder, a .zip or a .tar.*, {the part of the path that matches `wanted`: text}, sorted by path. A folder
    may also hold the archive.

    Archives are read in memory and never unpacked, so that no member can end up outside of anything.
    """
    if not source.exists():
        raise DataError(f"{source}: no such folder or archive")
    contents: dict[str, bytes] = {}

    def take(name: str, read) -> None:
        match = re.search(rf"(?:^|/)({wanted})$", name)
        if match:
            if match[1] in contents:
                raise DataError(f"{source}: expected one {match[1]}, found two (the second is {name})")
            contents[match[1]] = read()

    try:
        if source.is_dir():
            for path in sorted(source.rglob("*")):
                take(path.relative_to(source).as_posix(), path.read_bytes)
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    take(name, lambda: archive.read(name))
        elif tarfile.is_tarfile(source):
            with tarfile.open(source) as archive:
                for member in archive:
                    if member.isfile():
                        take(member.name, lambda: archive.extractfile(member).read())
                # tarfile takes a damaged header for the end, after which are zeros; a .gz's checksum is looked at when all has been read.
                for rest in iter(lambda: archive.fileobj.read(1 << 20), b""):
                    if rest.strip(b"\0"):
                        raise tarfile.ReadError("a damaged header")
        else:
            raise BrokenArchive(f"{source}: expected a folder, a .zip or a .tar.gz")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and (source.is_dir() or error.filename):      # not what an archive holds
            raise
        raise BrokenArchive(f"{source}: expected a sound archive, found a broken one ({error})") from None
    if not contents:
        archives = [path for form in ("*.zip", "*.tar", "*.tar.*", "*.tgz") for path in source.glob(form)] if source.is_dir() else []
        if len(archives) == 1:
            return read_source(archives[0], wanted)
        raise DataError(f"{source}: expected files like {wanted}, found none")

    texts = {}
    for path in sorted(contents):
        try:
            texts[path] = contents[path].removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        except UnicodeDecodeError as error:
            line = contents[path].count(b"\n", 0, error.start) + 1
            byte = contents[path][error.start]
            raise DataError(f"{source}: {path}:{line}: expected UTF-8, found the byte 0x{byte:02x}") from None
    return texts
