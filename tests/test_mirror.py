"""The twins are mirror images: the same files, public names and parameters in the same order, over the syntax tree."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Pattern of a difference -> why it must be. A difference is written `file`, `file: name`, `file: name(parameter)` or
# `file: name(...)` (order, kind or default). A pattern that no difference needs any longer fails the test.
EXCEPTIONS: dict[str, str] = {
    "*.py: *.forward": "torch.nn.Module names its pass forward",
    "*.py: *.call": "keras.Layer names its pass call",
    "*unet.py: *_config": "a .keras file keeps a model's configuration; PyTorch rebuilds it from the checkpoint's",
    "layers.py: *(dtype)": "a Keras layer fixes its dtype where it is made, a PyTorch module where it is moved",
    "unet.py: UNet.__init__(dtype)": "the same",
    "lens_extractor.py: LensExtractor.__init__*": "the same",
    "train_lens_extractor.py": "the lens extractor's weights are made once, in PyTorch, and read by both",
    "baseline_unet.py: *(dtype)": "the same",
    "chart_net.py: *(dtype)": "the same",
    "chart_net.py: *_config": "a .keras file keeps a model's configuration; PyTorch rebuilds it from the checkpoint's",
    "layers.py: *(training)": "Keras hands training on as an argument, PyTorch keeps it in the module",
    "layers.py: GroupNorm*": "torch.nn.GroupNorm serves; Keras's own layer is 1.4 times slower than ours",
    "kernel.py: SMALLEST": "TensorFlow gains at every size",
    "kernel.py: compiled_layers": "a graph of TensorFlow's that is saved to a file cannot hold the function",
    "kernel.py: ALIGNMENT": "PyTorch takes arrays at any address",
    "layers.py: Identity*": "torch.nn.Identity serves",
    "layers.py: gelu": "torch's gelu is exact; keras.ops.gelu is off by 5e-9 in float64",
    "layers.py: conv": "torch pads as asked; Keras takes a rule, chosen here by the stride",
    "layers.py: pixel_*": "torch.nn.functional has both",
    "layers.py: linear": "torch.nn.Linear serves; a Keras layer has its weights only once it is built",
    "weights.py: CHANNELS_LAST_FROM": "TensorFlow's images are channels last always",
    "weights.py: variables": "Keras knows variables by path, not by attribute; torch has named_parameters",
    "weights.py: ATTRIBUTES": "the same",
    "weights.py: logger": "pickles are read in PyTorch alone, which says what it widens",
    "weights.py: find_layer": "the same",
    "worker.py: trace_layers": "the ladder takes PyTorch's layers for its reference, whose inputs hooks can note",
    "worker.py: replay_layers": "and feeds TensorFlow's with them",
    "worker.py: Affine*": "a sampler takes a module in PyTorch, any function in TensorFlow",
    "weights.py: ??_KERAS": "canonical layout is PyTorch's, so only Keras transposes",
    "weights.py: FROM_KERAS": "the same",
    "weights.py: to_keras": "the same",
    "weights.py: from_keras": "the same",
    "sampler.py: Network.to_device": "TensorFlow places tensors by itself, and its layout is NHWC already",
    "sampler.py: to_numpy": "the same",
    "sampler.py: Network.fast": "the same, and torch.compile is imported when it is first asked for",
    "sampler.py: BoundNetwork.run": "PyTorch's loop has tensors, which stay on a GPU; TensorFlow has core's, on arrays",
    "sampler.py: clipped": "the same",
    "sampler.py: deviation": "the same",
    "ranks.py: LaunchedRanks(*)": "torchrun has a store of keys, tf.distribute a strategy and the workers' addresses",
    "ranks.py: replicated": "PyTorch's ranks have one device each, and plain parameters",
    "device.py: on_device": "PyTorch moves what is made, TensorFlow places what a block makes",
    "sampler.py: Network.__init__(device)": "a PyTorch module's parameters say their device; a function has none",
}

Parameters = list[tuple[str, str]]  # (name with the stars of *args, "= default" or ""), in order


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> Parameters:
    """A function's parameters; keyword-only ones follow a bare `*`."""
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
    found = [(arg.arg, default) for arg, default in zip(positional, defaults, strict=True)]
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    found = found[1:] if method and not static else found
    if a.vararg:
        found.append((f"*{a.vararg.arg}", None))
    elif a.kwonlyargs:
        found.append(("*", None))
    found += [(arg.arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    if a.kwarg:
        found.append((f"**{a.kwarg.arg}", None))
    return [(name, f"= {ast.unparse(default)}" if default else "") for name, default in found]


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__", "__enter__", "__exit__")


def public_names(body: list[ast.stmt], prefix: str = "") -> dict[str, Parameters]:
    """Public names of a module or class with their parameters; a class's annotated fields are parameters of it."""
    names: dict[str, Parameters] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(node.name):
            names[prefix + node.name] = parameters(node, method=bool(prefix))
        elif isinstance(node, ast.ClassDef) and is_public(node.name):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            names[prefix + node.name] = [
                (ast.unparse(item.target), f"= {ast.unparse(item.value)}" if item.value else "") for item in fields
            ]
            names |= public_names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not prefix:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: [] for target in targets if isinstance(target, ast.Name) and is_public(target.id)}
    return names


def differences(left: Path, right: Path) -> list[str]:
    """Every way in which two packages' public faces differ."""
    trees = [
        {
            path.relative_to(twin).as_posix(): public_names(ast.parse(path.read_text(encoding="utf-8")).body)
            for path in sorted(twin.rglob("*.py"))
        }
        for twin in (left, right)
    ]
    found = sorted(trees[0].keys() ^ trees[1].keys())
    for file in sorted(trees[0].keys() & trees[1].keys()):
        ours, theirs = trees[0][file], trees[1][file]
        found += [f"{file}: {name}" for name in sorted(ours.keys() ^ theirs.keys())]
        for name in sorted(ours.keys() & theirs.keys()):
            a, b = dict(ours[name]), dict(theirs[name])
            only = sorted(a.keys() ^ b.keys())
            found += [f"{file}: {name}({parameter})" for parameter in only]
            if [p for p in ours[name] if p[0] not in only] != [p for p in theirs[name] if p[0] not in only]:
                found.append(f"{file}: {name}(...)")
    return found


def unexcused(found: list[str], exceptions: dict[str, str]) -> tuple[list[str], list[str]]:
    """Differences that no exception covers, and exceptions that cover no difference."""
    return (
        [item for item in found if not any(fnmatchcase(item, pattern) for pattern in exceptions)],
        [pattern for pattern in exceptions if not any(fnmatchcase(item, pattern) for item in found)],
    )


def test_the_twins_mirror_each_other():
    missing, stale = unexcused(differences(ROOT / "torch_impl", ROOT / "tf_impl"), EXCEPTIONS)
    assert missing == [], "the twins differ; make them alike, or give the reason in EXCEPTIONS"
    assert stale == [], "exceptions that nothing needs"
    assert all(EXCEPTIONS.values())


GOOD = """
from dataclasses import dataclass
LIMIT = 3
_PRIVATE = 1
@dataclass
class Options:
    steps: int = 3
    eta: float = 0.0
class UNet:
    def __init__(self, config, *, dtype="float32"):
        self.config = config
    def _helper(self): ...
    @staticmethod
    def build(config): ...
def sample(network, table, seed=0, *, clip=True): ...
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("_helper(self)", "_other(self, x)", []),
        ("_PRIVATE = 1", "import os", []),
        ("self.config = config", "self.config = 1", []),
        ("def sample(", "def samples(", ["a.py: sample", "a.py: samples"]),
        ("LIMIT = 3", "LIMITS = 3", ["a.py: LIMIT", "a.py: LIMITS"]),
        ("seed=0", "seed=1", ["a.py: sample(...)"]),
        ("network, table", "table, network", ["a.py: sample(...)"]),
        ("seed=0, *, clip", "*, seed=0, clip", ["a.py: sample(...)"]),
        ("clip=True", "clip=True, device=None", ["a.py: sample(device)"]),
        ("clip=True", "clip=True, **kwargs", ["a.py: sample(**kwargs)"]),
        ('*, dtype="float32"', "", ["a.py: UNet.__init__(*)", "a.py: UNet.__init__(dtype)"]),
        ("def build(config)", "def build(spec)", ["a.py: UNet.build(config)", "a.py: UNet.build(spec)"]),
        ("eta: float = 0.0", "eta: float = 1.0", ["a.py: Options(...)"]),
    ],
)
def test_a_difference_is_found(tmp_path, old, new, expected):
    for twin, text in (("left", GOOD), ("right", GOOD.replace(old, new))):
        (tmp_path / twin).mkdir()
        (tmp_path / twin / "a.py").write_text(text)
    assert (GOOD.replace(old, new) != GOOD) and differences(tmp_path / "left", tmp_path / "right") == expected


def test_a_missing_file_is_found_and_an_exception_covers_it_and_goes_stale(tmp_path):
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(GOOD)
    assert differences(tmp_path / "left", tmp_path / "right") == []
    (tmp_path / "left" / "ddp.py").write_text("")
    found = differences(tmp_path / "left", tmp_path / "right")
    assert found == ["ddp.py"]
    assert unexcused(found, {}) == (["ddp.py"], [])
    assert unexcused(found, {"ddp.py": "torchrun's own", "b.py": "gone"}) == ([], ["b.py"])
