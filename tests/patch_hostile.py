"""Hostile patches: they leave the codebase, change protected files, hide a change, or exhaust the reader.

Each kind takes a guarded codebase and returns it, perhaps prepared, with a patch that must never be accepted.
"""

import random
from collections.abc import Callable

from ideator_rl.patch import Rules, Tree, diff

RULES = Rules(editable=("**/*.py", "*.py"), protected=("evaluator.py", "hidden/", "**/scorer.py"), max_bytes=500_000)
SECRET = "def score(loss):\n    return loss\n\n\nTOLERANCE = 0.01\n"
Hostile = Callable[[random.Random, Tree], tuple[Tree, str]]

NEW = "diff --git a/{0} b/{0}\nnew file mode {1}\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+{2}\n"
PROTECTED = ("evaluator.py", "hidden/answers.py", "lib/scorer.py")
CHANGE = "@@ -2 +2 @@\n-    return loss\n+    return 0.0\n"


def guarded(base: Tree) -> Tree:
    return {**base, **dict.fromkeys(PROTECTED, SECRET), "hidden/answers.py": SECRET + "ANSWERS = [1, 2]\n"}


def _escape(rng: random.Random) -> str:
    return rng.choice(
        ("../{}", "/tmp/{}", "a/../../{}", "./../{}", "lib/../../{}", "//{}", "..\\{}", "~/../../{}")
    ).format(f"x{rng.randrange(99)}.py")  # fmt: skip


def _any(rng: random.Random, base: Tree) -> str:
    return rng.choice([path for path in base if path not in PROTECTED])


def _new_outside(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    path = _escape(rng)
    forms = (
        NEW.format(path, 100644, "x = 1"),
        f"--- /dev/null\n+++ {path}\n@@ -0,0 +1 @@\n+x = 1\n",
        f"{path}\n<<<<<<< SEARCH\n=======\nx = 1\n>>>>>>> REPLACE\n",
        f"*** Begin Patch\n*** Add File: {path}\n+x = 1\n*** End Patch\n",
        '--- /dev/null\n+++ "b/\\056\\056/x.py"\n@@ -0,0 +1 @@\n+x\n',
    )
    return base, rng.choice(forms)


def _moved_outside(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    source, to = _any(rng, base), _escape(rng)
    verb = rng.choice(("rename", "copy"))
    git = f"diff --git a/{source} b/{to}\nsimilarity index 100%\n{verb} from {source}\n{verb} to {to}\n"
    moved = f"*** Begin Patch\n*** Update File: {source}\n*** Move to: {to}\n*** End Patch\n"
    return base, rng.choice((git, moved))


def _protected(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    path = rng.choice(PROTECTED)
    forms = (
        f"--- a/{path}\n+++ b/{path}\n{CHANGE}",
        f"{path}\n<<<<<<< SEARCH\n    return loss\n=======\n    return 0.0\n>>>>>>> REPLACE\n",
        f"{path}\n```python\n{base[path].replace('return loss', 'return 0.0')}```\n",
        f"*** Begin Patch\n*** Update File: {path}\n@@\n-    return loss\n+    return 0.0\n*** End Patch\n",
        f"*** Begin Patch\n*** Delete File: {path}\n*** End Patch\n",
        diff(base, {name: text for name, text in base.items() if name != path}),
    )
    return base, rng.choice(forms)


def _under_another_name(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    """A wrong folder, a partial name or no name; the only file where the patch fits is protected."""
    base = {path: text for path, text in base.items() if path not in PROTECTED} | {"hidden/answers.py": SECRET}
    forms = (
        f"--- a/src/answers.py\n+++ b/src/answers.py\n{CHANGE}",
        f"--- a/answers.py\n+++ b/answers.py\n{CHANGE}",
        CHANGE,
        f"```diff\n{CHANGE}```\n",
        "<<<<<<< SEARCH\n    return loss\n=======\n    return 0.0\n>>>>>>> REPLACE\n",
        "hidden/answers.py\n<<<<<<< SEARCH\n2 |     return loss\n=======\n2 |     return 0\n>>>>>>> REPLACE\n",
    )
    return base, rng.choice(forms)


def _hidden_hunk(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    """A change to a protected file below the header of another file, or in the mail after a harmless one."""
    path, victim = _any(rng, base), rng.choice(PROTECTED)
    tree = {**base, path: base[path] + "x = 1\n"}
    section = f"--- a/{victim}\n+++ b/{victim}\n{CHANGE}"
    mail = "From {:040x} Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n---\n\n"
    forms = (
        diff(base, tree) + section,
        diff(base, tree) + CHANGE,
        f"diff --git a/{path} b/{path}\n" + section,
        mail.format(1) + diff(base, tree) + "-- \n2.43.0\n\n" + mail.format(2) + section,
    )
    return base, rng.choice(forms)


def _onto_protected(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    source, to = _any(rng, base), rng.choice((*PROTECTED, "hidden/new.py", "deep/er/scorer.py"))
    verb = rng.choice(("rename", "copy"))
    deletion = f"diff --git a/{to} b/{to}\ndeleted file mode 100644\n" if to in base and rng.random() < 0.5 else ""
    return base, deletion + f"diff --git a/{source} b/{to}\n{verb} from {source}\n{verb} to {to}\n"


def _links(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    path = _any(rng, base)
    forms = (
        NEW.format("link.py", 120000, "/etc/passwd"),
        NEW.format("sub", 160000, "Subproject commit 0123456789"),
        f"diff --git a/{path} b/{path}\nold mode 100644\nnew mode 120000\n",
        f"diff --git a/{path} b/{path}\nindex 123..456 120000\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-x\n+/etc\n",
    )
    return base, rng.choice(forms)


def _binary(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    path = rng.choice(("w.bin", "model.py", _any(rng, base)))
    forms = (
        f"diff --git a/{path} b/{path}\nnew file mode 100644\nindex 0000..1234\nGIT binary patch\nliteral 4\nLc$\n\n",
        f"diff --git a/{path} b/{path}\nBinary files a/{path} and b/{path} differ\n",
        NEW.format("x.py", 100644, "x = '\0'"),
        f"{path}_\n```\n\0\n```\n",
    )
    return base, rng.choice(forms)


def _git_folder(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    name = rng.choice((".git/hooks/post-checkout", ".GIT/config", "lib/.git/hooks/x.py", ".git./x.py", "git~1/x.py"))
    forms = (NEW.format(name, 100755, "x"), f"{name}\n```\nx\n```\n")
    return base, rng.choice(forms)


def _unicode(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    """Names that resemble, case-fold to, or hide other names."""
    names = ("EVALUATOR.PY", "Evaluator.py", "hidden\u200b.py", "x\u202egp.py", "\ufeffx.py", "HIDDEN/y.py",
             "evaluator.py\u200d", "a\u2028b.py", "lib/Scorer.py", "lib/\u017fcorer.py")  # fmt: skip
    name = rng.choice(names)
    forms = (NEW.format(name, 100644, "x = 1"), f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x = 1\n")
    return base, rng.choice(forms)


def _collision(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    """A file where a folder is, a folder where a file is, or the same name in another case."""
    path = _any(rng, base)
    name = rng.choice((f"{path}/x.py", path.upper().replace(".PY", ".py"), "lib"))
    return base, NEW.format(name, 100644, "x = 1")


def _not_editable(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    name = rng.choice(("setup.cfg", "Makefile", "data.json", ".github/workflows/x.yml", "lib/x.so", "conftest.txt"))
    return base, rng.choice(
        (NEW.format(name, 100644, "x"), f"{name}\n```\nx\n```\n".replace("Makefile\n", "./Makefile\n"))
    )


def _huge(rng: random.Random, base: Tree) -> tuple[Tree, str]:
    many = "".join(NEW.format(f"x{i}.py", 100644, "x = 1") for i in range(65))
    lines = "+x = 1234567890\n" * 40_000
    large = f"--- /dev/null\n+++ b/large.py\n@@ -0,0 +1,40000 @@\n{lines}"
    deep = NEW.format("/".join("d" * 20 for _ in range(20)) + "/x.py", 100644, "x")
    return base, rng.choice((many, large, deep))


HOSTILE: dict[str, Hostile] = {
    "new file outside": _new_outside,
    "moved or copied outside": _moved_outside,
    "protected file": _protected,
    "protected, under another name": _under_another_name,
    "protected, hidden behind another": _hidden_hunk,
    "moved or copied onto protected": _onto_protected,
    "links and submodules": _links,
    "binary": _binary,
    "git's own folder": _git_folder,
    "unicode in names": _unicode,
    "names that collide": _collision,
    "not editable": _not_editable,
    "huge": _huge,
}
