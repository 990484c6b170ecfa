"""Find a repository and read what a snapshot needs, without writing to it."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from loom.addresses import hide_credentials
from loom.errors import LoomError, RequestError, SnapshotError
from loom.snapshot import git
from loom.snapshot import repository as repositories
from loom.snapshot.model import Allows, Lends, Source
from loom.snapshot.repository import STORE, RepositoryView, bare, check_file
from loom.util.paths import is_below
from loom.util.untrusted_files import read_regular
from loom.values import Environ

# Object stores up to this size are copied (docs/benchmarks.md: copying 50 MB costs about what laying out 600 files
# does); a bigger one is borrowed. Loose objects cost per file, so many of them count as big too.
COPY_UP_TO_BYTES = 50_000_000
COPY_UP_TO_FILES = 1_000

# The workspace path in containers: a store below it can't be mounted at its own path.
_TAKEN_IN_CONTAINERS = ("/workspace", "/proc", "/sys", "/dev")

_ABOUT = ("rev-parse", "--is-shallow-repository", "HEAD^{commit}", "HEAD^{tree}")
_WHY = ("rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--git-dir")


COMMIT = ("log", "-1", "--no-show-signature", "--format=%an <%ae>%x00%cI%x00%P%x00%B", "HEAD")
"""The question for a commit's author, time, parents and message, with NUL between them."""
UNMERGED = ("ls-files", "-z", "--unmerged", "--full-name")
"""The question for files in conflict; `git.unmerged` reads the answer."""
_REF_FIELDS = ("objectname", "*objectname", "HEAD", "refname", "symref")


_Asked = tuple[RepositoryView, list[git.Running]]
_asked: dict[tuple[Path, tuple[tuple[str, str], ...]], _Asked] = {}


def none(_: object) -> bool:
    """Allow nothing."""
    return False


def ask_ahead() -> None:
    """Start the git commands of the next `discover` in this directory, which run while loom's own modules are imported."""
    start, inherited = Path.cwd(), git.as_inherited(os.environ)
    with suppress(LoomError):  # `discover` finds it again, and raises it
        if asked := _ask(start, inherited, commit=True):
            _asked[start, tuple(inherited.items())] = asked


def _ask(start: Path, inherited: Mapping[str, str], *, commit: bool, modules: Sequence[Path] = ()) -> _Asked | None:
    """Find the repository and start the questions about it; None without one."""
    repository = repositories.find(start, inherited, modules=modules)
    if repository is None:
        return None
    if not _is_owned(repository):
        why = git.Running(_WHY, inherited, cwd=start, searching=True)
        code, _, stderr = why.result(check=False)
        if code != 0 and "dubious ownership" in stderr:
            _explain_refusal(start, inherited)
    here = git.in_repository(repository, inherited)
    questions = (_ABOUT, ("config", "-z", "--list"), _refs_with(_REF_FIELDS), *([COMMIT] if commit else []))
    if commit and not any(repository.git_dir.glob("sharedindex.*")):  # to read that touches its time
        questions = (*questions, UNMERGED)
    return repository, [git.Running(question, here, cwd=repository.root) for question in questions]


def _is_owned(repository: RepositoryView) -> bool:
    """Return whether it is this user's, so that git need not be asked whether it trusts it."""
    owners = {os.geteuid()}
    if os.geteuid() == 0 and (sudo := os.environ.get("SUDO_UID", "")).isdigit():
        owners.add(int(sudo))
    dot = repository.root / ".git"
    owned = (repository.root, repository.git_dir, *([dot] if os.path.lexists(dot) else []))
    return all(os.lstat(path).st_uid in owners for path in owned)


def discover(
    start: Path,
    *,
    environ: Environ,
    commit: bool = True,
    modules: Sequence[Path] = (),
    filters: Allows = none,
    lends: Lends = none,
) -> Source:
    """Find the repository of the checkout at `start` as git does (also by `GIT_DIR` etc.). `commit`: read `Source.commit`.

    `modules`: where the git directories of submodules may be. `filters` tells whether those count that the repository's own
    configuration names, `lends` whether a workspace may have the objects of stores that the repository borrows from, which is
    asked when one is filled. RequestError for a path without a checkout, a bare repository, one without a commit, or one that
    git or loom refuses.
    """
    if not start.is_dir():
        raise RequestError(f"{start}: no such directory", code="NO_REPOSITORY", hint="start loom inside a git checkout")
    inherited = git.as_inherited(environ)
    key = (start, tuple(inherited.items()))
    asked = _asked.pop(key) if key in _asked else _ask(start, inherited, commit=commit, modules=modules)
    if asked is None:
        _explain_refusal(start, inherited)
    repository, (about, config, refs, *of_commit) = asked
    own_filters = repository.filters
    if own_filters and filters(repository):
        repository = repositories.with_filters(repository, environ)
    here = git.in_repository(repository, inherited)
    root, git_dir, common_dir = repository.root, repository.git_dir, repository.common_dir
    try:
        code, out, stderr = about.result(check=False)
        if code != 0:
            _explain_head(repository, here, stderr)
    except BaseException:
        for process in (config, refs, *of_commit):
            process.stop()
        raise
    shallow, head, tree = out.decode().split()
    settings = parse_config(config.result()[1])
    for name, value in (*repository.partial, *(own_filters if not repository.filters else ())):
        settings[name] = (*settings.get(name, ()), value)
    code, listed, _ = refs.result(check=False)
    if code != 0:  # one ref to a missing object aborts, if objects are read
        listed = git.run(
            _refs_with(tuple("" if name.startswith("*") else name for name in _REF_FIELDS)), here, cwd=root
        )
    # `peeled`: the target of an annotated tag; `target`: of a symbolic ref; both may be empty.
    found = [tuple(line.split("\0")) for line in os.fsdecode(listed).split("\n") if line]
    branch = next((name for _, _, mark, name, target in found if mark == "*" and not target), "")
    origin = settings.get("remote.origin.url", ())
    objects = root / (inherited.get("GIT_OBJECT_DIRECTORY") or common_dir / "objects")
    return Source(
        repository=repository,
        root=root,
        git_dir=git_dir,
        common_dir=common_dir,
        objects_dir=objects,
        index_path=root / (inherited.get("GIT_INDEX_FILE") or git_dir / "index"),
        head_sha=head,
        head_tree_sha=tree,
        commit=of_commit[0].result(check=False)[1] if of_commit else b"",
        unmerged=git.unmerged(of_commit[1].result(check=False)[1]) if of_commit[1:] else (),
        branch=branch.removeprefix("refs/heads/") or None,
        tags=tuple(
            name.removeprefix("refs/tags/")
            for sha, peeled, _, name, _ in found
            if name.startswith("refs/tags/") and head in (sha, peeled)
        ),
        origin_url=origin[-1] if origin else None,
        read_only_mounts=stores_to_borrow(objects) + _borrowed_by_modules(git_dir, objects),
        shallow=shallow == "true",
        refs=tuple((name, sha, target) for sha, _, _, name, target in found),
        config=settings,
        environment={
            name: value for name, value in environ.items() if git.is_config(name) or name not in git.LOCAL_VARIABLES
        },
        attributes_tree=_attributes_tree(here, repository, settings),
        may_filter=filters,
        may_lend=lends,
    )


def _attributes_tree(
    here: Mapping[str, str], repository: RepositoryView, settings: Mapping[str, tuple[str, ...]]
) -> str | None:
    """Return the tree id that attributes come from, if not the work tree. RequestError where git would refuse."""
    variable = here.get("GIT_ATTR_SOURCE")
    named = variable or settings.get("attr.tree", ("",))[-1]
    if not named:
        return None
    quiet = {name: value for name, value in here.items() if name != "GIT_ATTR_SOURCE"}
    asked = git.Running(("rev-parse", "--verify", "-q", f"{named}^{{tree}}"), quiet, cwd=repository.root)
    code, out, _ = asked.result(check=False)
    if code == 0:
        return out.decode().strip()
    if variable:
        raise RequestError(
            f"GIT_ATTR_SOURCE={variable}: no tree or commit of this repository",
            hint="unset it, or name one: git would refuse as well",
            code="REQUEST_INVALID",
        )
    return None  # contrary to its documentation, git then uses the work tree


def _refs_with(fields: Sequence[str]) -> tuple[str, ...]:
    wanted = "%00".join(f"%({name})" if name else "" for name in fields)
    return ("for-each-ref", f"--format={wanted}", "refs/heads", "refs/remotes", "refs/tags")


def _explain_refusal(start: Path, inherited: Mapping[str, str]) -> NoReturn:
    """Convert git's reason for finding no checkout to an error with position, reason and next move."""
    _, out, stderr = git.Running(_WHY, inherited, cwd=start, searching=True).result(check=False)
    fields = out.decode("utf-8", "surrogateescape").splitlines()
    if "dubious ownership" in stderr:
        raise RequestError(
            f"{start}: the repository belongs to another user, and git does not trust it",
            hint=f"if you do: git config --global --add safe.directory {start}",
            code="REPOSITORY_NOT_TRUSTED",
        )
    if fields[:1] == ["true"] or "safe.bareRepository" in stderr:
        raise bare(start)
    if fields[1:2] == ["false"]:
        raise RequestError(
            f"{start}: inside a git directory, not in a checkout",
            hint="start loom in the checkout that belongs to it",
            code="NO_REPOSITORY",
        )
    if (gone := re.search(r"not a git repository: (/.+)", stderr)) is not None:
        raise RequestError(
            f"{start}: .git leads to {gone[1]}, where no repository is",
            hint="if that was moved: git worktree repair (there, with this path), or git submodule update --init",
            code="NO_REPOSITORY",
        )
    if "not a git repository" in stderr:
        raise RequestError(
            f"{start}: not inside a git repository",
            hint="go to a checkout, or make one here: git init && git add -A && git commit",
            code="NO_REPOSITORY",
        )
    raise _unreadable(start, stderr)


def _explain_head(repository: RepositoryView, here: Mapping[str, str], stderr: str) -> NoReturn:
    """Convert the reason why there is no commit to an error with position, reason and next move."""
    root = repository.root
    asked = git.Running(("rev-parse", "--verify", "-q", "HEAD"), here, cwd=root)
    code, head, _ = asked.result(check=False)
    if code == 0:
        raise RequestError(
            f"{root}: HEAD is {os.fsdecode(head).strip()}, and git does not find this commit, or its tree",
            hint="see what `git fsck` says; objects borrowed from another repository (objects/info/alternates) may be gone",
            code="REPOSITORY_UNREADABLE",
        )
    if "unknown revision" in stderr:
        raise RequestError(
            f"{root}: the repository has no commit yet, or none that you may read",
            hint='make the first one: git commit --allow-empty -m "Start"',
            code="REPOSITORY_UNBORN",
        )
    raise _unreadable(root, stderr)


def _unreadable(root: Path, stderr: str) -> RequestError:
    reason = stderr.strip().removeprefix("fatal: ") or "git can't read the repository"
    return RequestError(f"{root}: {reason}", hint="see what `git status` says there", code="REPOSITORY_UNREADABLE")


def parse_config(data: bytes) -> dict[str, tuple[str, ...]]:
    """Parse `git config --list -z`; addresses are without credentials, which neither jobs nor records need."""
    result: dict[str, tuple[str, ...]] = {}
    for item in git.nul_list(data):
        key, given, value = os.fsdecode(item).partition("\n")
        result[key] = (*result.get(key, ()), hide_credentials(value) if given else "true")  # as in "[core] autocrlf"
    return result


def truth(values: tuple[str, ...], default: bool) -> bool:
    """Parse a boolean of git's configuration."""
    if not values:
        return default
    text = values[-1].lower()
    number = text.rstrip("kmg")
    return text in ("true", "yes", "on") or (number.lstrip("+-").isdigit() and int(number) != 0)


def store_paths(objects: Path) -> Iterator[Path]:
    """Return `objects` and every store that it borrows from, each once.

    SnapshotError for a link, and for one to borrow from that is not in a repository of the same user: jobs get all of it.
    """
    seen: set[Path] = set()
    waiting = [objects]
    while waiting:
        path = waiting.pop(0)
        if path not in seen and os.path.isdir(path):  # noqa: PTH112  no error for a name that no file can have
            for inside in (path, *(path / name for name in STORE)):
                check_file(inside)
            if path != objects:
                _check_lender(path, objects)
            seen.add(path)
            yield path
            waiting += _alternates(path)


_REPACK = (
    "if you made this clone with --shared or --reference: git repack -ad, then remove that file; else clone it again"
)


def _check_lender(store: Path, objects: Path) -> None:
    """Raise RequestError for a directory that is not the object store of a repository of the owner of `objects`."""
    real = store.resolve()
    above = real.parent
    is_repository = (above / "HEAD").is_file() and (above / "refs").is_dir() and real.name == "objects"
    if not is_repository:
        why = "is no repository's store of objects"
    elif any(path.stat().st_uid != objects.stat().st_uid for path in (real, above)):
        why = "belongs to another user"
    else:
        return
    raise RequestError(
        f"{objects / 'info/alternates'}: it names {store}, which {why}", hint=_REPACK, code="OBJECTS_ELSEWHERE"
    )


def lenders(objects: Path) -> Iterator[Path]:
    """Return the stores that one borrows from. SnapshotError as `store_paths`."""
    return itertools.islice(store_paths(objects), 1, None)


def refused_lenders(source: Source) -> list[Path]:
    """Return the stores that the repository borrows from, unless the user has allowed that."""
    stores = list(lenders(source.objects_dir))
    return [] if not stores or source.may_lend(stores) else stores


def check_consent(source: Source) -> None:
    """Raise RequestError where the repository borrows objects, and the user has not allowed that."""
    if stores := refused_lenders(source):
        raise RequestError(
            f"TRUST_REQUIRED: {source.root} borrows objects of {stores[0]}, and you have not allowed that",
            hint="`loom trust` shows and records it; LOOM_TRUST=1 allows it for this one time",
            code="TRUST_REQUIRED",
        )


def check_lenders_of_module(objects: Path, outer: Path) -> None:
    """Raise RequestError where a submodule's store borrows from a repository which that of its project does not."""
    allowed = [store.resolve().parent for store in store_paths(outer)]
    for store in lenders(objects):
        if not any(store.resolve().is_relative_to(above) for above in allowed):
            raise RequestError(
                f"{objects / 'info/alternates'}: it names {store}, and the project borrows nothing there",
                hint="if you made this clone: git repack -ad in the submodule, then remove that file; else clone it again",
                code="OBJECTS_ELSEWHERE",
            )


def _borrowed_by_modules(git_dir: Path, outer: Path) -> tuple[Path, ...]:
    """Return the stores that workspaces of submodules, at any depth, will borrow from."""
    if not (git_dir / "modules").is_dir():
        return ()
    result: list[Path] = []
    for here, directories, files in os.walk(git_dir / "modules"):
        if "HEAD" in files and "objects" in directories:
            directories[:] = [name for name in directories if name == "modules"]
            objects = Path(here, "objects")
            check_lenders_of_module(objects, outer)
            result += stores_to_borrow(objects)
    return tuple(dict.fromkeys(result))


_QUOTED = re.compile(rb'"((?:[^"\\]|\\(?:[abfnrtv"\\]|[0-3][0-7]{2}))*)"')
_LONGEST_LIST = 1_000_000


def _alternates(objects: Path) -> list[Path]:
    """Return the stores that a list names as git reads it. RequestError for one that git may read otherwise."""
    file = objects / "info/alternates"
    try:
        data = read_regular(file, at_most=_LONGEST_LIST)
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL, errno.ELOOP):
            raise _invalid_list(file) from error
        return []
    result = []
    for line in data.split(b"\n"):
        if not line or line.startswith(b"#"):
            continue
        if quoted := _QUOTED.fullmatch(line):
            line = quoted[1].decode("unicode_escape").encode("latin-1")
        elif line.startswith(b'"'):
            raise _invalid_list(file)
        if b"\0" in line:
            raise _invalid_list(file)
        result.append(Path(os.path.normpath(objects / os.fsdecode(line))))
    return result


def _invalid_list(file: Path) -> RequestError:
    return RequestError(f"{file} is not a list of directories in git's format", hint=_REPACK, code="OBJECTS_ELSEWHERE")


def _measured(objects: Path) -> tuple[bool, bool]:
    """Return whether a store is small, and whether everyone may read it, so that git in a container works for any user.

    Loose objects are counted, not measured. RequestError for a link: git makes none, and what it leads to would be lent too.
    """
    size = files = 0
    read = [(str(objects), _ENTER)]
    for path, inside in _directories(objects):
        name = os.path.basename(path)  # noqa: PTH119
        if name == "pack":
            files += len(inside)
            size += sum(pack.stat(follow_symlinks=False).st_size for pack in inside)
            read += [(path, _ENTER), *((pack.path, stat.S_IROTH) for pack in inside)]
        elif len(name) == 2:
            files += len(inside)
            size += 4096 * len(inside)
            # One object shows the umask of a writer; checking all would take thousands of calls.
            read += [(path, _ENTER), *((one.path, stat.S_IROTH) for one in inside[:1])]
    small = size <= COPY_UP_TO_BYTES and files <= COPY_UP_TO_FILES
    return small, all(_others_may(*each) for each in read)


def _directories(objects: Path) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Yield a store and each directory below it, with its entries. RequestError for a link."""
    waiting = [str(objects)]
    for path in waiting:
        try:
            inside = list(os.scandir(path))
        except FileNotFoundError:
            continue  # a gc emptied and removed it
        for entry in inside:
            if entry.is_symlink():
                check_file(Path(entry.path))
        yield path, inside
        waiting += [entry.path for entry in inside if entry.is_dir(follow_symlinks=False)]


_ENTER = stat.S_IROTH | stat.S_IXOTH


def _others_may(path: str, bits: int) -> bool:
    try:
        return (os.stat(path).st_mode & bits) == bits  # noqa: PTH116
    except OSError:
        return True  # packed meanwhile


def stores_to_borrow(objects: Path) -> tuple[Path, ...]:
    """Return `objects` and all that it borrows from, as stores to borrow from; empty when objects are to be copied.

    SnapshotError for an unreadable one.
    """
    try:
        stores = [(path, *_measured(path)) for path in store_paths(objects)]
    except PermissionError as error:
        raise SnapshotError(
            f"{error.filename}: {error.strerror}",
            hint="git's objects must be readable; some may have been made by another user, as by `sudo git`",
            code="OBJECTS_UNREADABLE",
        ) from error
    if len(stores) == 1 and stores[0][1]:
        return ()
    if not all(is_open for _, _, is_open in stores) or any(
        is_below(str(path), taken) for path, _, _ in stores for taken in _TAKEN_IN_CONTAINERS
    ):
        return ()
    return tuple(path for path, _, _ in stores)
