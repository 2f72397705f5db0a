"""Two rooms, one wall: what the runtime, the host and the jobs may import and hold."""

import ast
import re
import statistics
import tomllib

RENAMED = {"scikit_learn": "sklearn", "mlflow_skinny": "mlflow", "onnxruntime": "onnxruntime"}
SHARED = ("slipway.errors", "slipway.spec", "slipway.host")
VAGUE = re.compile(r"(.+_)?(utils?|helpers?|common|misc|managers?)|base_.+")
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
LONGEST, LONG, TYPICAL = 60, 40, 14


def job_libraries(root):
    """Return the modules of what only images hold, from the extras of pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = [re.split(r"[<>=\[; ]", entry)[0] for entry in (*extras["base"], *extras["torch"])]
    plain = [name.replace("-", "_") for name in names]
    return {RENAMED.get(name, name) for name in plain} | {"jobs"}


def runtime(root, sources):
    package = root / "src" / "slipway"
    return [path for path in sources(package) if package / "host" not in path.parents]


def test_the_runtime_never_imports_docker_or_the_host(root, sources, tree, imports, at):
    for path in runtime(root, sources):
        for line, module in imports(tree(path)):
            banned = module.split(".")[0] == "docker" or f"{module}.".startswith("slipway.host.")
            assert not banned, f"{at(path, line)}: imports {module}"


def test_the_host_never_imports_a_job_or_its_libraries(root, sources, tree, imports, at):
    banned = job_libraries(root)
    for path in sources(root / "src" / "slipway" / "host"):
        for line, module in imports(tree(path)):
            assert module.split(".")[0] not in banned, f"{at(path, line)}: imports {module}"
            if module.startswith("slipway."):
                assert module.startswith(SHARED), f"{at(path, line)}: imports {module}"


def test_nothing_is_ever_unpickled(root, sources, tree, imports, at):
    for path in sources(root / "src", root / "jobs"):
        for line, module in imports(tree(path)):
            assert module.split(".")[0] not in UNSAFE, f"{at(path, line)}: imports {module}"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                reason = unpickles(node)
                assert not reason, f"{at(path, node.lineno)}: {reason}"


def unpickles(call):
    """Return what is wrong with a call that may run code out of a file, or nothing."""
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name.endswith(("joblib.load", "read_pickle", "yaml.load")):
        return f"{name} runs code out of the file"
    if name.endswith("torch.load") and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if given.get("allow_pickle") == "True":
        return f"{name} with allow_pickle=True"
    return ""


def test_a_module_is_named_for_its_subject(root, sources, at):
    for path in sources(*(root / name for name in ("src", "bench", "jobs", "tests"))):
        for name in (path.stem, path.parent.name):
            assert not VAGUE.fullmatch(name), f"{at(path)}: the name {name!r} says nothing"


def test_functions_are_small(root, sources, tree, at):
    sizes = {}
    for path in sources(root / "src", root / "jobs"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                sizes[f"{at(path, node.lineno)} {node.name}"] = lines
    long = {name: size for name, size in sizes.items() if size >= LONG}
    assert max(sizes.values()) <= LONGEST, f"over {LONGEST} lines: {long}"
    assert len(long) <= len(sizes) / 10, f"over a tenth has {LONG} lines or more: {long}"
    assert statistics.median(sizes.values()) <= TYPICAL
