"""Find a repository without git, and let git read none of its configuration but a short list.

A directory that was unpacked or shared has a `.git` that somebody else wrote, and a job can write the one of its workspace.
git reads a repository's configuration from `$GIT_COMMON_DIR/config`, so every git process of loom gets a GIT_COMMON_DIR of
loom's own: a view with links to the repository's objects and refs, and with a configuration that loom wrote from the list
below. git does not see what else the repository's file says: programs, addresses, includes, keys of later versions of git.
The name of a view is the digest of its content, so a view never changes and any number of processes may use it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from loom.addresses import hide_credentials
from loom.errors import RequestError, SnapshotError
from loom.util.private import make_private
from loom.util.untrusted_files import special_kind
from loom.values import Environ, Immutable

_COUNTS = re.compile(
    r"core\.(filemode|symlinks|ignorecase|precomposeunicode|protectntfs|protecthfs|autocrlf|eol|safecrlf|bigfilethreshold"
    r"|quotepath|checkstat|trustctime|sparsecheckout|sparsecheckoutcone)"
    r"|sparse\.expectfilesoutsideofpatterns|attr\.tree|diff\.ignoresubmodules|user\.(name|email|signingkey)|gpg\.format"
    r"|extensions\.(objectformat|compatobjectformat|refstorage)"
    r"|remote\.[^\n]+\.(url|pushurl|fetch)|submodule\.[^\n]+\.(url|active|branch|ignore)",
    re.DOTALL,
)
"""The keys of a repository's own configuration that git may see. None of them names a program or a file to read, and no git
process that sees them talks to a server."""
_SUBMODULE_UPDATES = ("checkout", "rebase", "merge", "none")
_FORMER_CLONE = re.compile(r"extensions\.partialclone|remote\.[^\n]+\.(promisor|partialclonefilter)", re.DOTALL)
"""Keys that loom alone sees: with them, git would fetch missing objects."""
_LFS = re.compile(
    r"filter\.lfs\.(clean\ngit-lfs clean -- %f|smudge\ngit-lfs smudge( --skip)? -- %f"
    r"|process\ngit-lfs filter-process( --skip)?|required\ntrue)"
)
"""The entries that `git lfs install` writes."""
_EXTENSIONS = frozenset(
    f"extensions.{name}"
    for name in (
        *("noop", "noop-v1", "preciousobjects", "partialclone", "worktreeconfig", "objectformat", "compatobjectformat"),
        *("refstorage", "relativeworktrees", "submodulepathconfig"),
    )
)
_LINKED = ("objects", "refs", "packed-refs", "reftable", "shallow", "lfs", "git-crypt", "annex")
_RULES = ("exclude", "attributes")
_LARGEST = 10_000_000
STORE = ("pack", "pack/multi-pack-index", "info", "info/alternates", "info/commit-graph")
"""Files and directories that git reads in a store of objects."""
_GIT_FILES = (
    *("HEAD", "index", "refs", "refs/heads", "refs/tags", "packed-refs", "reftable", "reftable/tables.list", "shallow"),
    *("info", "info/exclude", "info/attributes", "info/sparse-checkout", "modules"),
    *(f"objects/{name}" for name in STORE),
)


class RepositoryView(Immutable):
    """A repository on disk and the view through which git reads it. Paths are absolute."""

    root: Path
    git_dir: Path
    common_dir: Path
    view: Path
    config: tuple[tuple[str, str], ...]
    """The relevant entries of its own configuration; an address in them may have a credential."""
    partial: tuple[tuple[str, str], ...] = ()
    """The entries of its configuration about objects that it lacks; git does not see them."""
    filters: tuple[tuple[str, str], ...] = ()
    """The programs of filters that its configuration names; they count once they are allowed (`with_filters`)."""
    trusted: bool = False
    """They were allowed."""

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that lead a git process here."""
        return {"GIT_DIR": str(self.git_dir), "GIT_COMMON_DIR": str(self.view), "GIT_WORK_TREE": str(self.root)}


def find(start: Path, environ: Environ, *, modules: Iterable[Path] = ()) -> RepositoryView | None:
    """Find the repository of a checkout as git would, by `GIT_DIR` or upward from `start`; None without one.

    `modules`: directories in which the git directory of a submodule may be. RequestError for a `.git` that leads to a
    repository which does not lead back, and for a configuration that can't be read or names another work tree.
    """
    named, tree = environ.get("GIT_DIR"), environ.get("GIT_WORK_TREE")
    if named:
        git_dir = Path(os.path.realpath(start / named))
        if git_dir.is_file():
            git_dir = _target(git_dir) or git_dir
        common = _common(git_dir, environ)
        if not _is_git_dir(git_dir, common, environ):
            return None
        return _seen(
            Path(os.path.realpath(start / (tree or "."))), git_dir, common, environ, root_is_given=tree is not None
        )
    for directory in _upward(Path(os.path.realpath(start)), environ):
        dot = directory / ".git"
        git_dir = dot
        if dot.is_file():
            target = _target(dot)
            if target is None:
                return None
            git_dir = target
        elif dot.is_symlink():
            git_dir = Path(os.path.realpath(dot))
        common = _common(git_dir, environ)
        if _is_git_dir(git_dir, common, environ):
            root = Path(os.path.realpath(start / tree)) if tree else directory
            moved = _check_way(dot, git_dir, common, modules)
            return _seen(root, git_dir, common, environ, root_is_given=tree is not None or moved)
        if git_dir != dot or _is_git_dir(directory, directory, environ):
            return None
    return None


def at(git_dir: Path, root: Path, environ: Environ) -> RepositoryView:
    """Return the repository whose git directory is `git_dir`, whatever its configuration says of its work tree."""
    return _seen(root, git_dir, git_dir, environ, root_is_given=True)


def with_filters(found: RepositoryView, environ: Environ) -> RepositoryView:
    """Return the repository with the filters that its own configuration names."""
    config = (*found.config, *as_under_git(found, found.filters))
    return replace(found, config=config, filters=(), trusted=True, view=_view(found.common_dir, config, environ))


def as_under_git(
    found: RepositoryView, filters: Iterable[tuple[str, str]], *, elsewhere: bool = False
) -> list[tuple[str, str]]:
    """Return filters that find the repository as under the user's git; `elsewhere`: started outside of its work tree."""
    here = os.path.lexists(found.root / ".git") and not elsewhere
    names = "GIT_COMMON_DIR GIT_DIR GIT_WORK_TREE" if here else "GIT_COMMON_DIR"
    return [
        (key, f"unset {names}; {value}" if value and key.endswith((".clean", ".smudge", ".process")) else value)
        for key, value in filters
    ]


def as_written(message: str) -> str:
    """Return git's message about filters with their commands as somebody wrote them."""
    return re.sub(r"unset GIT_COMMON_DIR[A-Z_ ]*; ", "", message)


def _upward(start: Path, environ: Environ) -> Iterator[Path]:
    """Return the directories in which git looks for a repository."""
    ceilings = {
        os.path.realpath(path) for path in environ.get("GIT_CEILING_DIRECTORIES", "").split(":") if path[:1] == "/"
    }
    across = environ.get("GIT_DISCOVERY_ACROSS_FILESYSTEM", "").lower() in ("1", "true", "yes", "on")
    try:
        device = start.stat().st_dev
        for directory in (start, *start.parents):
            if directory != start and (str(directory) in ceilings or not (across or directory.stat().st_dev == device)):
                return
            yield directory
    except OSError:
        return


def _is_git_dir(git_dir: Path, common: Path, environ: Environ) -> bool:
    objects = environ.get("GIT_OBJECT_DIRECTORY") or common / "objects"
    return os.path.lexists(git_dir / "HEAD") and os.path.isdir(objects) and (common / "refs").is_dir()  # noqa: PTH112


def _target(file: Path) -> Path | None:
    """Return the git directory that a `.git` file names."""
    text = _text(file)
    if text is None or not text.startswith("gitdir: "):
        return None
    return Path(os.path.realpath(file.parent / text.removeprefix("gitdir: ").rstrip("\r\n")))


def _common(git_dir: Path, environ: Environ) -> Path:
    if named := environ.get("GIT_COMMON_DIR"):
        return Path(os.path.realpath(named))
    text = _text(git_dir / "commondir")
    return git_dir if text is None else Path(os.path.realpath(git_dir / text.rstrip("\r\n")))


def _text(file: Path) -> str | None:
    """Return the content of a small regular file."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return None
        return os.fsdecode(file.read_bytes())
    except OSError:
        return None


def _check_way(dot: Path, git_dir: Path, common: Path, modules: Iterable[Path]) -> bool:
    """Refuse (RequestError) a `.git` that leads to a repository that does not lead back: it may be anybody's.

    Return whether the repository is a submodule's, whose note of its work tree may be old.
    """
    if git_dir != common:
        back = _text(git_dir / "gitdir")
        leads_back = back is not None and os.path.realpath(git_dir / back.rstrip("\n")) == os.path.realpath(dot)
        if git_dir.parent == common / "worktrees" and leads_back:
            return False
        hint = (
            "if it is a linked worktree that was moved: git worktree repair; else remove it, and clone the repository"
        )
    elif git_dir == dot:
        return False
    else:
        if any(git_dir.is_relative_to(os.path.realpath(module)) for module in modules):
            return True
        if _work_tree(git_dir, _entries(git_dir / "config")) == dot.parent:
            return False
        hint = f"if you made it so: git -C {dot.parent} config core.worktree {dot.parent}"
    raise RequestError(
        f"{dot} leads to {common}, a repository that does not lead back to it", hint=hint, code="REPOSITORY_ELSEWHERE"
    )


_SMALL = ("HEAD", "alternates", "tables.list")


def _check_files(git_dir: Path, common_dir: Path) -> None:
    """Raise RequestError where a file of git is a link that leads out of its directory, so that jobs would get what is there,
    or a FIFO, at which git would wait."""
    for directory in {git_dir, common_dir}:
        for name in _GIT_FILES:
            try:  # twenty files, each time that a command looks for its repository
                status = os.lstat(f"{directory}/{name}")
            except OSError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                check_file(directory / name, directory)


def check_file(path: Path, within: Path | None = None) -> None:
    """Raise RequestError for a FIFO, socket or device.

    The same for a link, unless it leads to something `within` a directory, as a HEAD of old versions of git.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    mode = status.st_mode
    if kind := special_kind(mode) or (path.name in _SMALL and status.st_size > _LARGEST and "file of that size"):
        raise RequestError(
            f"{path}: a {kind} in place of a file of git's",
            hint="remove it; if git then misses the file, clone the repository",
            code="REPOSITORY_UNREADABLE",
        )
    if not stat.S_ISLNK(mode) or (within is not None and path.resolve().is_relative_to(within.resolve())):
        return
    raise RequestError(
        f"{path} is a link to {os.fsdecode(path.readlink())}; loom follows no link out of a repository",
        hint="replace the link by a copy of its target, or make the checkout with git clone, or git worktree add",
        code="REPOSITORY_LINKED",
    )


def _work_tree(git_dir: Path, entries: Iterable[tuple[str, str]]) -> Path | None:
    named = [value for key, value in entries if key == "core.worktree"]
    return Path(os.path.realpath(git_dir / named[-1])) if named else None


def _seen(root: Path, git_dir: Path, common: Path, environ: Environ, *, root_is_given: bool) -> RepositoryView:
    _check_files(git_dir, common)
    entries = _entries(common / "config")
    if git_dir == common and not root_is_given:
        if (named := _work_tree(git_dir, entries)) not in (None, root):
            raise RequestError(
                f"{git_dir / 'config'}: core.worktree names {named}, and not {root}",
                hint="remove it: git config --unset core.worktree; or say it yourself: GIT_DIR=... GIT_WORK_TREE=... loom ...",
                code="REPOSITORY_ELSEWHERE",
            )
        if ("core.bare", "true") in entries:
            raise bare(root)
    if unknown := [key for key, _ in entries if key.startswith("extensions.") and key not in _EXTENSIONS]:
        raise RequestError(
            f"{common / 'config'}: {unknown[0]}: an extension of git's format that loom does not know",
            hint="update loom, or clone the repository without it",
            code="REPOSITORY_UNREADABLE",
        )
    if any(
        key == "extensions.worktreeconfig" and value.lower() in ("true", "yes", "on", "1") for key, value in entries
    ):
        entries += _entries(git_dir / "config.worktree")
    allowed = tuple((key, value) for key, value in entries if _counts(key, value))
    return RepositoryView(
        root=root,
        git_dir=git_dir,
        common_dir=common,
        view=_view(common, allowed, environ),
        config=allowed,
        partial=tuple((key, value) for key, value in entries if _FORMER_CLONE.fullmatch(key)),
        filters=tuple((key, value) for key, value in entries if key.startswith("filter.") and not _counts(key, value)),
    )


def bare(path: Path) -> RequestError:
    return RequestError(
        f"{path}: a bare repository has no files to run jobs on",
        hint="make a checkout of it: git clone, or git worktree add",
        code="REPOSITORY_BARE",
    )


def _counts(key: str, value: str) -> bool:
    if key.startswith("submodule.") and key.endswith(".update"):
        return value in _SUBMODULE_UPDATES
    return _COUNTS.fullmatch(key) is not None or _LFS.fullmatch(f"{key}\n{value}") is not None


# The view


def _view(common: Path, config: Iterable[tuple[str, str]], environ: Environ) -> Path:
    """Return the directory that stands for `common` before git, made if it is not there yet."""
    config = list(config)
    version = 1 if any(key.startswith("extensions.") for key, _ in config) else 0
    format_ = [("core.repositoryformatversion", str(version)), ("core.bare", "false")]
    text = config_text([*format_, *((key, hide_credentials(value)) for key, value in config)])
    links = {name: common / name for name in _LINKED}
    links |= {f"info/{name}": common / "info" / name for name in _RULES}
    content = text + "".join(f"{name} {target}\n" for name, target in links.items())
    name = hashlib.sha256(os.fsencode(content)).hexdigest()[:32]
    for base in _bases(environ):
        path = base / name
        if path.is_dir() and _is_ours(base):
            if time.time() - path.stat().st_mtime > _NOTED_EVERY_S:
                os.utime(path)
            return path
        try:
            if base.parent.name == "loom":  # the cache directory, which older versions left open to others
                make_private(base.parent)
            make_private(base)
            return _made(path, text, links)
        except OSError:
            continue
    raise SnapshotError(
        "git's view of the repository can't be written, neither in the cache directory nor in the temporary one",
        hint="see what `loom doctor` says of these directories",
    )


_NOTED_EVERY_S, _UNUSED_S = 86_400.0, 30 * 86_400.0


def prune(environ: Environ) -> None:
    """Remove the views that no command has used for a month."""
    for base in filter(_is_ours, _bases(environ)):
        for view in base.iterdir():
            if time.time() - view.lstat().st_mtime > _UNUSED_S:
                shutil.rmtree(view, ignore_errors=True)


def _bases(environ: Environ) -> Iterator[Path]:
    home = environ.get("HOME", "")
    cache = Path(environ.get("XDG_CACHE_HOME") or f"{home}/.cache")
    if cache.is_absolute() and _is_ours(next((path for path in (cache, *cache.parents) if path.exists()), cache)):
        yield cache / "loom" / "git"
    yield Path(tempfile.gettempdir(), f"loom-git-{os.geteuid()}")


def _is_ours(path: Path) -> bool:
    """Return whether a directory is this user's, and nobody else may write into it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _made(path: Path, text: str, links: Mapping[str, Path]) -> Path:
    making = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    (making / "info").mkdir()
    (making / "config").write_bytes(os.fsencode(text))
    for name, target in links.items():
        (making / name).symlink_to(target)
    try:
        making.rename(path)
    except OSError:  # another process was faster
        with suppress(OSError):
            shutil.rmtree(making)
        if not path.is_dir():
            raise
    return path


# git's format of configuration


def config_text(entries: Iterable[tuple[str, str]]) -> str:
    """Write a configuration with these keys, as git prints them."""
    lines = []
    for key, value in entries:
        section, _, rest = key.partition(".")
        name, dot, variable = rest.rpartition(".")
        lines.append(f'[{section} "{_escaped(name)}"]' if dot else f"[{section}]")
        quoted = _escaped(value).replace("\n", "\\n").replace("\t", "\\t")
        lines.append(f'\t{variable} = "{quoted}"')
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


_HEADER = re.compile(r'\[([A-Za-z0-9.-]+)(?:[ \t]+"((?:\\[^\n]|[^"\\\n])*)")?\]')
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9-]*)[ \t]*(=?)[ \t]*")
_BETWEEN = re.compile(r"(?:\s|[#;][^\n]*)+")
_VALUE = re.compile(r"""((?:"(?:[^"\\\n]++|\\[ntb"\\\n])*+"|\\[ntb"\\\n]|[^"\\\n#;]++)*+)(?:[#;][^\n]*+)?\n""")
_MARK = re.compile(r"\\(.)|\"")
_ESCAPED, _AS_IT_IS = re.compile(r"\\(.)"), r"\1"
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b"}


def parse(text: str) -> list[tuple[str, str]]:
    """Return the keys and values of a configuration, without what it includes. ValueError where git would refuse the text."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n") + "\n"
    found: list[tuple[str, str]] = []
    at, section = 0, ""
    while True:
        if between := _BETWEEN.match(text, at):
            at = between.end()
        if at >= len(text):
            return found
        if header := _HEADER.match(text, at):
            name, sub = header[1].lower(), header[2]
            section = name if sub is None else f"{name}.{_ESCAPED.sub(_AS_IT_IS, sub)}"
            at = header.end()
        elif section and (key := _KEY.match(text, at)):
            at = key.end()
            value = "true"
            if key[2] and (said := _VALUE.match(text, at)):
                value, at = _MARK.sub(_plain, said[1].replace("\\\n", "").rstrip(" \t")), said.end()
            elif key[2] or text[at] != "\n":
                raise ValueError(text.count("\n", 0, at) + 1)
            found.append((f"{section}.{key[1].lower()}", value))
        else:
            raise ValueError(text.count("\n", 0, at) + 1)


def _plain(mark: re.Match[str]) -> str:
    """Return the text that a quote or an escape in a value stands for."""
    return _ESCAPES.get(mark[1], mark[1]) if mark[1] else ""


def _entries(file: Path) -> list[tuple[str, str]]:
    """Return the entries of a configuration file; none if it is missing. RequestError for a file that git would refuse."""
    if not os.path.lexists(file):
        return []
    text = _text(file)
    if text is None:
        raise RequestError(
            f"{file}: no regular file that can be read", hint="clone the repository", code="REPOSITORY_UNREADABLE"
        )
    try:
        return parse(text)
    except ValueError as error:
        raise RequestError(
            f"{file}:{error}: no line of git's configuration",
            hint="see what `git config --list` says",
            code="REPOSITORY_UNREADABLE",
        ) from error
