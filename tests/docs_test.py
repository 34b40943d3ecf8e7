#!/usr/bin/env python3
"""docs/ against the tree: what docs/generate.py makes is what is committed, links lead somewhere, flags that the text names exist, messages of
the troubleshooting page are in the source, completion completes, man pages are sound."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import generate  # noqa: E402

BINARIES = pathlib.Path(os.environ.get("PAGODA_BIN", ROOT / "build/cpu/bin"))
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/examples/*.md"), ROOT / "README.md", ROOT / "deploy/README.md",
                *ROOT.glob("deploy/monitoring/*.md"), *ROOT.glob("bench/**/*.md")])
MADE_BY_TOOLS = {"api.md", "metrics.md"}
# Flags of other programs that the pages show.
OTHERS = {"--full", "--unit", "--asan", "--tsan", "--short-asan", "--user", "--namespace", "--create-namespace", "--previous", "--recursive", "--help",
          "--version", "--update", "--update-metrics", "--pictures", "--shm-size", "--profile", "--cacert", "--reuse-values", "--reset-then-reuse-values"}


def words_of(page):
    return page.read_text()


def test_generated_files_are_up_to_date():
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder)
        generate.generate(BINARIES, made)
        stale = [str(path.relative_to(made)) for path in sorted(made.rglob("*")) if path.is_file() and
                 (not (committed := ROOT / "docs" / path.relative_to(made)).exists() or committed.read_text() != path.read_text())]
    assert not stale, f"out of date: {stale}; run: docs/generate.py {BINARIES.relative_to(ROOT) if BINARIES.is_relative_to(ROOT) else BINARIES}"


def test_links_lead_somewhere():
    wrong = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", words_of(page), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if target.startswith(("http://", "https://")):
                continue
            file = (page.parent / path) if path else page
            if not file.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and file.suffix == ".md":
                heads = {re.sub(r"[^a-z0-9 -]", "", head.lower()).strip().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", words_of(file), re.M)}
                if anchor not in heads:
                    wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)


def test_flags_in_the_text_exist():
    known = OTHERS | {flag for command in generate.commands(BINARIES) for flag in command.flags()}
    known |= set(re.findall(r"--[a-z][a-z0-9-]+", "".join(p.read_text(errors="replace") for p in
                                                          [*ROOT.glob("scripts/*"), *ROOT.glob("bench/**/*"), *ROOT.glob("tests/*/*.py")]
                                                          if p.is_file() and p.suffix != ".md")))
    wrong = []
    for page in PAGES:
        if page.name in MADE_BY_TOOLS:
            continue
        for line in words_of(page).splitlines():
            if re.match(r"\s*(sudo |install |apt|docker|kubectl|helm|sqlite3|curl|ss|pip|cmake|ninja)", line):
                continue
            wrong += [f"{page.relative_to(ROOT)}: {flag}" for flag in re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]*[a-z0-9])(?![\w-])", line) if flag not in known]
    assert not wrong, "\n".join(wrong)


def test_messages_are_in_the_source():
    source = "".join(path.read_text(errors="replace") for folder in ("checkpoint", "cli", "common", "coordinator", "router", "security", "text", "worker", "kernels")
                     for path in sorted((ROOT / folder).rglob("*.cc")) + sorted((ROOT / folder).rglob("*.h")))
    source = re.sub(r'"\s*\n\s*"', "", source)  # literals over two lines
    headings = re.findall(r"^### `(.*)`$", words_of(ROOT / "docs/troubleshooting.md"), re.M)
    assert len(headings) >= 20, headings
    missing = [heading for heading in headings if heading not in source]
    assert not missing, f"in docs/troubleshooting.md, in no source file: {missing}"


def test_tests_that_the_pages_name_exist():
    """Of the attack classes (all 23 of them, each with a test or a sentence), of the claims of README.md, of what reliability.md promises."""
    files = {path: path.read_text(errors="replace") for path in sorted((ROOT / "tests").rglob("*"))
             if path.suffix in (".cc", ".h", ".py", ".txt") and path.is_file()}
    names = {path.name for path in files}
    everything = "\n".join(files.values())
    rows = {page: [line for line in words_of(ROOT / page).splitlines() if line.startswith("| ") and "_test" in line]
            for page in ("docs/security.md", "docs/reliability.md", "README.md")}
    classes = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", words_of(ROOT / "docs/security.md"), re.M)
    assert [int(number) for number, *_ in classes] == list(range(1, 24)) and all(shown.strip() for *_, shown in classes)
    wrong, seen = [], 0
    for page, lines in rows.items():
        for word in [word for line in lines for word in re.findall(r"`([^`]+)`", line.split("|")[-2])]:
            seen += 1
            path = word.split(" ")[0]
            if path.startswith("--"):
                continue
            if path.endswith((".py", ".cc")) or "/" in path:
                found = (ROOT / path).exists() or path in names or bool(list(ROOT.glob(path)))
            else:  # a target of CMake, a function, or Suite.Name
                found = all(part == "*" or re.search(rf"\b{re.escape(part)}\b", everything) for part in path.split("."))
            if not found:
                wrong.append(f"{page}: {word}")
    assert not wrong and seen > 100, (wrong, seen)


def complete(words):
    script = f"""source docs/completion/pagoda.bash
COMP_WORDS=({' '.join(f"'{w}'" for w in words)}); COMP_CWORD={len(words) - 1}; _pagoda; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_completion_completes():
    assert complete(["pagoda", "dep"]) == ["deploy"]
    assert set(complete(["/usr/bin/pagoda", "deploy", ""])) >= {"apply", "list", "scale", "drain", "delete"}
    assert "--pipeline-parallel-size" in complete(["pagoda", "serve", "--model", "x", "--pipe"])
    assert complete(["pagoda-router", "--log-format", ""]) == ["json", "plain"]
    assert "README.md" in complete(["pagoda-worker", "--config", "READ"])
    for command in generate.commands(BINARIES):
        assert set(complete([*command.words, "--"])) == set(command.flags()), command.name
    if shutil.which("fish"):
        subprocess.run(["fish", "--no-execute", "docs/completion/pagoda.fish"], cwd=ROOT, check=True)


def test_completion_is_installed_for_every_command():
    """Shells load a completion by the command's name: what install.md says puts one there for each."""
    part = words_of(ROOT / "docs/install.md").split("## Man pages and completion\n")[1]
    script = re.search(r"```sh\n(.*?)```", part, re.S)[1].replace("sudo ", "")
    with tempfile.TemporaryDirectory() as folder:
        for path in ("/usr/local/share/man/man1", "/usr/share/bash-completion/completions"):
            script = script.replace(path, f"{folder}{path}")
            pathlib.Path(f"{folder}{path}").mkdir(parents=True)
        subprocess.run(["bash", "-ec", script], cwd=ROOT, env={**os.environ, "HOME": folder}, check=True)
        for command in {command.words[0] for command in generate.commands(BINARIES)}:
            for path in (f"usr/share/bash-completion/completions/{command}", f".config/fish/completions/{command}.fish"):
                assert (pathlib.Path(folder) / path).exists(), f"docs/install.md installs no completion of {command} ({path})"
            bash = pathlib.Path(folder, "usr/share/bash-completion/completions", command)
            assert subprocess.run(["bash", "-c", f". {bash}; complete -p {command}"], capture_output=True).returncode == 0, command


def test_man_pages_are_sound():
    for command in generate.commands(BINARIES):
        page = (ROOT / f"docs/man/{command.words[0]}.1").read_text()
        missing = [flag for flag in command.flags() if generate.roff(flag) not in page]
        assert not missing, f"{command.name}: {missing}"
    if not shutil.which("groff"):
        print("      (not rendered: there is no groff)")
        return
    for page in sorted((ROOT / "docs/man").glob("*.1")):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr[:2000]


if __name__ == "__main__":
    failed = 0
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            try:
                test()
                print("ok     ", name)
            except AssertionError as error:
                failed += 1
                print("FAILED ", name, "\n", error)
    sys.exit(1 if failed else 0)
