"""Each job's folder is whole and reads like every other."""

import ast
import re
import sys
import tomllib

import pytest

from slipway.spec import JobSpec

FILES = ("job.toml", "job.py", "Dockerfile", "README.md", "test_job.py")
HEADINGS = ["Question", "Data and licence", "Method", "Result", "Limits"]
COMMON = {"--seed", "--device", "--out", "--data", "--epochs", "--limit"}
KEBAB = re.compile(r"-[a-z]|--[a-z][a-z0-9]*(-[a-z0-9]+)*(/--[a-z][a-z0-9-]*)?")
LIGHT = {*sys.stdlib_module_names, "click", "slipway", ""}


def options_of(module):
    """Yield (line, option) of every string that starts an option in ``click.option(...)``."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("option"):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).startswith("-"):
                    yield argument.lineno, argument.value


def light_part(module):
    """Yield the statements that run at import: not in functions, not for checkers only."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.orelse
        elif isinstance(node, ast.ClassDef):
            yield from light_part(node)
        else:
            yield node


def light_modules(folder, tree):
    """Return job.py and the modules of its folder that are imported when it is."""
    found, waiting = [], [folder / "job.py"]
    while waiting:
        path = waiting.pop()
        found.append(path)
        for statement in light_part(tree(path)):
            if isinstance(statement, ast.ImportFrom):
                waiting += sorted(beside(statement, path, folder) - {*found, *waiting})
    return found


def beside(statement, path, folder):
    """Return the files of a job's folder that ``from x import y`` in one of them imports."""
    parts = statement.module.split(".") if statement.module else []
    if statement.level:
        base = path.parents[statement.level - 1]
    elif parts[:2] == ["jobs", folder.name]:
        base, parts = folder, parts[2:]
    else:
        return set()
    packages = [base.joinpath(*parts[:count]) for count in range(len(parts) + 1)]
    places = [*packages, *(packages[-1] / alias.name for alias in statement.names)]
    files = {file for one in places for file in (one.with_suffix(".py"), one / "__init__.py")}
    return {file for file in files if file.is_file() and folder in file.parents}


def own_modules(sources, folder):
    found = [path for path in sources(folder) if not path.name.startswith(("test_", "conftest"))]
    # demo/ is the page of the job's own, in an image of its own
    return [path for path in found if folder / "demo" not in path.parents]


def test_there_is_a_job_or_the_checks_prove_nothing(every_job):
    assert every_job


@pytest.mark.parametrize("name", FILES)
def test_the_folder_holds_every_file(folder, name, at):
    assert (folder / name).is_file(), f"{at(folder / name)}: no such file"


def test_job_toml_reads_and_its_samples_are_there(folder, at):
    for name, dataset in JobSpec.read(folder).data.items():
        sample = folder / dataset.sample
        assert sample.exists(), f"{at(folder / 'job.toml')}: [data.{name}] sample {sample} is not"


def test_job_toml_is_not_repeated_by_an_unused_key(folder, at):
    table = tomllib.loads((folder / "job.toml").read_text("utf-8"))
    assert "name" not in table, f"{at(folder / 'job.toml')}: the folder's name is the job's"


def test_the_dockerfile_stands_on_the_base_of_job_toml(folder, at):
    path = folder / "Dockerfile"
    lines = path.read_text("utf-8").splitlines()
    installer = ["ARG BUILD=slipway/build", "FROM ${BUILD} AS build"]  # with a requirements.txt
    instructions = [line for line in lines if line.strip() and not line.startswith("#")]
    instructions = [line for line in instructions if line not in installer]
    wanted = [f"ARG BASE=slipway/{JobSpec.read(folder).base}", "FROM ${BASE}"]
    stages = [line for line in instructions if line.startswith("FROM ")]
    found = [instructions[0], stages[-1]]  # before the job's own stage, what installs its lock
    assert wanted == found, f"{at(path)}: found {found}, wanted {wanted}"
    most = 20 if (folder / "requirements.txt").is_file() else 10
    assert 4 <= len(lines) <= most, f"{at(path)}: found {len(lines)} lines, wanted 4 to {most}"


def test_the_docstring_names_data_and_source(folder, tree, at):
    path = folder / "job.py"
    text = ast.get_docstring(tree(path)) or ""
    for label in ("Data:", "Source:"):
        found = [line for line in text.splitlines() if line.startswith(label)]
        assert found, f"{at(path)}: the module's docstring has no line that starts {label!r}"


def test_the_readme_has_the_five_headings_in_order(folder, at):
    path = folder / "README.md"
    found = re.findall(r"^## (.+?)\s*$", path.read_text("utf-8"), re.MULTILINE)
    kept = [heading for heading in found if heading in HEADINGS]
    assert kept == HEADINGS, f"{at(path)}: found {found}, wanted {HEADINGS}"


def test_a_job_imports_no_other_job(folder, every_job, tree, imports, sources, at):
    others = {path.name for path in every_job} - {folder.name}
    for path in sources(folder):
        for line, module in imports(tree(path)):
            parts = module.split(".")
            other = parts[1] if parts[0] == "jobs" and len(parts) > 1 else ""
            beside = parts[2] if module.startswith("..") and len(parts) > 2 else ""
            assert not {other, beside} & others, f"{at(path, line)}: imports {module}, another job"


def test_importing_a_job_is_light(folder, tree, imports, at):
    for path in light_modules(folder, tree):
        for statement in light_part(tree(path)):
            for line, module in imports(statement):
                top = module.split(".")[0]
                assert top in {*LIGHT, "jobs"}, (
                    f"{at(path, line)}: imports {top} at its top; wanted inside the function that"
                    " needs it, or under TYPE_CHECKING"
                )


def test_options_are_kebab_case_and_common_ones_are_the_runtimes(folder, tree, sources, at):
    for path in own_modules(sources, folder):
        for line, option in options_of(tree(path)):
            assert KEBAB.fullmatch(option), f"{at(path, line)}: found {option}, wanted kebab-case"
            assert option not in COMMON, f"{at(path, line)}: {option} is added by the runtime"


def test_no_six_lines_are_the_same_in_two_jobs(every_job, tree, sources, at):
    seen = {}
    for folder in every_job:
        for path in own_modules(sources, folder):
            lines = code_lines(tree(path))
            for start in range(len(lines) - 5):
                window = tuple(text for _, text in lines[start : start + 6])
                here = (folder, at(path, lines[start][0]))
                first = seen.setdefault(window, here)
                assert first[0] == folder, f"{here[1]} and {first[1]}: six lines are the same"


def code_lines(module):
    """Return (line, text) of a module as code alone: no imports, docstrings, comments, layout."""
    found = []
    for node in module.body:
        told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if told or isinstance(node, ast.Import | ast.ImportFrom):
            continue
        found += [(node.lineno, text) for text in without_docstrings(ast.unparse(node))]
    return found


def without_docstrings(text):
    """Return the lines of unparsed code whose docstrings, now one string a line, are left out."""
    lines, inside = [], False
    for line in map(str.strip, text.splitlines()):
        quotes = line.count('"""')
        if not inside and not quotes and line:
            lines.append(line)
        inside ^= quotes == 1
    return lines
