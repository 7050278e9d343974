"""The dynamic adapter compared with its reference in float64: results, gradients, dropout,
memory."""

import math

import pytest
import torch
from torch.testing._internal.optests import opcheck

from dapt_ext import dynamic_adapter, dynamic_adapters, reference
from dapt_ext.autocast import tf32_allowed

PARAMETERS = (
    "norm_weight norm_bias down_weight down_bias scale_weight scale_bias up_weight up_bias".split()
)
ACTIVATIONS = ("x", "mlp_out", "residual")

# Relative 2-norm of the error, as promised for each dtype of the products.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float64: 1e-12}


def make_inputs(B, T, C, r, seed=0, norm=True, dynamic=True, path=True):
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape, mean=0.0, std=1.0):
        return mean + std * torch.randn(*shape, generator=rng, dtype=torch.float64)

    inputs = {
        "x": normal(B, T, C, mean=0.3),
        "down_weight": normal(r, C, std=C**-0.5),
        "down_bias": normal(r, std=0.1),
        "up_weight": normal(C, r, std=r**-0.5),
        "up_bias": normal(C, std=0.1),
        "mlp_out": normal(B, T, C),
        "residual": normal(B, T, C),
    }
    if norm:
        inputs |= {"norm_weight": normal(C, mean=1, std=0.1), "norm_bias": normal(C, std=0.1)}
    if dynamic:
        inputs |= {"scale_weight": normal(1, C, std=C**-0.5), "scale_bias": normal(1, mean=0.5)}
    if path:
        kept = torch.rand(B, generator=rng) < 0.7
        inputs["path_factor"] = torch.where(kept, 1 / 0.7, 0.0).double()
    return inputs


def run(function, inputs, dtype, frozen=(), low_precision_parameters=False, **options):
    """(out, prompt) and the gradients by name, all in float64."""
    tensors = {}
    for name, value in inputs.items():
        half = dtype in (torch.bfloat16, torch.float16)
        keep32 = half and name not in ACTIVATIONS and not low_precision_parameters
        tensors[name] = value.detach().to(torch.float32 if keep32 else dtype, copy=True)
        if name != "path_factor" and name not in frozen:
            tensors[name].requires_grad_()
    x, rest = tensors["x"], {name: t for name, t in tensors.items() if name != "x"}
    out, prompt = function(x, **rest, **options)
    rng = torch.Generator().manual_seed(7)
    loss = (out.double() * torch.randn(out.shape, generator=rng, dtype=torch.float64)).sum()
    if prompt is not None:
        weight = torch.randn(prompt.shape, generator=rng, dtype=torch.float64)
        loss = loss + 3 * (prompt.double() * weight).sum()
    if loss.requires_grad:
        loss.backward()
    results = {"out": out.detach().double()}
    if prompt is not None:
        results["prompt"] = prompt.detach().double()
    results |= {f"d {n}": t.grad.double() for n, t in tensors.items() if t.grad is not None}
    return results


def rounded(inputs, dtype):
    """The inputs as the op sees them, so that only the error of its own arithmetic counts."""
    return {
        name: value.to(
            dtype if name in ACTIVATIONS or dtype == torch.float32 else torch.float32
        ).to(torch.float64)
        for name, value in inputs.items()
    }


def assert_close(mine, exact, dtype, slack=1.0):
    assert mine.keys() == exact.keys()
    for name, value in exact.items():
        error, size = (mine[name] - value).norm(), value.norm()
        if name == "d scale_bias" and "d scale_weight" in exact:
            # A single number, whose sum over tokens may cancel: it is measured with the weight of
            # its layer.
            size = torch.hypot(size, exact["d scale_weight"].norm())
        assert error <= slack * TOLERANCE[dtype] * size, f"{name}: {error / size:.2e}"


# Every rank, width, number of tokens and batch size of the contract occurs at least once.
SHAPES = [
    (1, 1, 48, 1),
    (3, 65, 96, 8),
    (1, 140, 192, 30),
    (3, 129, 384, 64),
    (2, 65, 768, 72),
    (1, 65, 1024, 256),
    (32, 140, 384, 64),
]


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_twin(shape, memory):
    inputs = make_inputs(*shape)
    mine = run(dynamic_adapter, inputs, torch.float32, memory=memory)
    exact = run(reference.dynamic_adapter, rounded(inputs, torch.float32), torch.float64)
    assert_close(mine, exact, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 65, 96, 8), (2, 129, 384, 64), (1, 140, 768, 72)])
def test_half_precision(shape, dtype):
    inputs = make_inputs(*shape)
    mine = run(dynamic_adapter, inputs, dtype)
    exact = run(reference.dynamic_adapter, rounded(inputs, dtype), torch.float64)
    assert_close(mine, exact, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_instruction_set(on_each_isa, dtype):
    inputs = make_inputs(2, 37, 100, 13)
    exact = run(reference.dynamic_adapter, rounded(inputs, dtype), torch.float64)
    for mine in on_each_isa(run, dynamic_adapter, inputs, dtype):
        assert_close(mine, exact, dtype)


@pytest.mark.parametrize("activation", ["gelu", "relu", "quickgelu"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("prompt", [True, False])
def test_options(activation, norm, dynamic, prompt):
    inputs = make_inputs(3, 21, 64, 8, norm=norm, dynamic=dynamic, path=prompt)
    options = {"activation": activation, "prompt": prompt, "static_scale": 0.3}
    mine = run(dynamic_adapter, inputs, torch.float32, **options)
    exact = run(reference.dynamic_adapter, rounded(inputs, torch.float32), torch.float64, **options)
    assert_close(mine, exact, torch.float32)


@pytest.mark.parametrize("missing", [("mlp_out",), ("residual",), ("mlp_out", "residual")])
def test_without_the_terms_around_it(missing):
    inputs = make_inputs(2, 21, 64, 8)
    for name in missing:
        del inputs[name]
    mine = run(dynamic_adapter, inputs, torch.float32)
    exact = run(reference.dynamic_adapter, rounded(inputs, torch.float32), torch.float64)
    assert_close(mine, exact, torch.float32)


@pytest.mark.parametrize("trained", [*PARAMETERS, "x", "mlp_out", "residual"])
def test_frozen_subsets(trained):
    """Only what is requested gets a gradient, which does not depend on what else is requested."""
    inputs = make_inputs(2, 33, 64, 8)
    frozen = set(inputs) - {trained}
    mine = run(dynamic_adapter, inputs, torch.float32, frozen=frozen)
    whole = run(dynamic_adapter, inputs, torch.float32)
    assert [name for name in mine if name.startswith("d ")] == [f"d {trained}"]
    assert torch.equal(mine[f"d {trained}"], whole[f"d {trained}"])


def test_all_frozen():
    inputs = make_inputs(2, 5, 48, 8)
    assert not run(dynamic_adapter, inputs, torch.float32, frozen=inputs)["out"].requires_grad


def test_only_the_prompt_is_used():
    inputs = make_inputs(2, 9, 48, 8)
    grads = []
    for function, dtype in ((dynamic_adapter, torch.float32), (reference.dynamic_adapter, None)):
        tensors = {
            name: value.to(dtype or torch.float64).requires_grad_(name != "path_factor")
            for name, value in rounded(inputs, torch.float32).items()
        }
        _, prompt = function(tensors.pop("x"), **tensors)
        prompt.square().sum().backward()
        grads.append(tensors["down_weight"].grad.double())
        assert tensors["residual"].grad is None or not tensors["residual"].grad.any()
    assert (grads[0] - grads[1]).norm() <= 1e-5 * grads[1].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_repeatable(dtype):
    inputs = make_inputs(8, 65, 96, 64)
    first, second = (run(dynamic_adapter, inputs, dtype) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_number_of_threads_changes_nothing():
    inputs = make_inputs(8, 65, 96, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(dynamic_adapter, inputs, torch.float32)
        torch.set_num_threads(2)
        two = run(dynamic_adapter, inputs, torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_strides():
    inputs = make_inputs(4, 12, 48, 8)
    strided = {
        name: value.float().transpose(0, 1).contiguous().transpose(0, 1) if value.dim() == 3
        else value.float()
        for name, value in inputs.items()
    }  # fmt: skip
    assert not strided["x"].is_contiguous()
    mine, _ = dynamic_adapter(strided.pop("x"), **strided)
    flat = {name: value.float() for name, value in inputs.items()}
    same, _ = dynamic_adapter(flat.pop("x"), **flat)
    assert torch.equal(mine, same)


@pytest.mark.parametrize("shape", [(0, 5, 48, 8), (2, 0, 48, 8)])
def test_empty(shape):
    results = run(dynamic_adapter, make_inputs(*shape), torch.float32)
    assert results["out"].shape == shape[:3]
    assert not results["d down_weight"].any()


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("activation", ["gelu", "quickgelu"])
def test_gradcheck(activation, memory):
    inputs = make_inputs(2, 3, 12, 4)
    names = [name for name in inputs if name != "path_factor"]
    factor = inputs["path_factor"] + 0.5

    def function(*values):
        torch.manual_seed(0)  # the same dropout in every call
        tensors = dict(zip(names, values, strict=True))
        return dynamic_adapter(
            tensors.pop("x"), **tensors, path_factor=factor, activation=activation,
            dropout=0.3, training=True, memory=memory,
        )  # fmt: skip

    torch.autograd.gradcheck(function, [inputs[name].requires_grad_() for name in names])


class TestDropout:
    """An adapter that reveals its mask: hidden unit j is copied to channel j."""

    RANK = 48

    def masks(self, dropout, tokens=200, calls=1, function=dynamic_adapter, training=True):
        r = self.RANK
        eye = torch.eye(r)
        options = {"activation": "relu", "dropout": dropout, "training": training, "prompt": False}
        x = torch.ones(2, tokens, r)
        zero = torch.zeros(r)
        return [function(x, eye, zero, eye, zero, **options)[0] for _ in range(calls)]

    def test_rate_and_scale(self):
        torch.manual_seed(0)
        (out,) = self.masks(0.3, tokens=1000)
        values = out.unique()
        assert values[0] == 0 and values[1].item() == pytest.approx(1 / 0.7)
        share = (out == 0).double().mean().item()
        assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / out.numel())

    def test_independence(self):
        """No two tokens, units or calls agree more often than by chance."""
        torch.manual_seed(1)
        first, second = ((out != 0).double().flatten(0, 1) for out in self.masks(0.5, calls=2))
        spread = 5 / math.sqrt(first.numel())
        for a, b in (
            (first, second),
            (first[1:], first[:-1]),
            (first[:, 1:], first[:, :-1]),
            (first[:200], first[200:]),
        ):
            assert abs(((a - 0.5) * (b - 0.5)).mean().item()) * 4 < spread * math.sqrt(2)

    def test_mask_is_the_twins(self):
        torch.manual_seed(3)
        (mine,) = self.masks(0.4)
        torch.manual_seed(3)
        (exact,) = self.masks(0.4, function=reference.dynamic_adapter)
        assert torch.equal(mine != 0, exact != 0)

    def test_seeds(self):
        torch.manual_seed(5)
        first, second = self.masks(0.5, calls=2)
        torch.manual_seed(5)
        again, _ = self.masks(0.5, calls=2)
        assert torch.equal(first, again) and not torch.equal(first, second)

    def test_extremes(self):
        assert (self.masks(0.0)[0] == 1).all()
        assert (self.masks(1.0)[0] == 0).all()
        assert (self.masks(0.7, training=False)[0] == 1).all()

    def test_no_dropout_draws_no_number(self):
        state = torch.get_rng_state()
        self.masks(0.0), self.masks(0.7, training=False)
        assert torch.equal(state, torch.get_rng_state())

    @pytest.mark.parametrize("memory", ["default", "low"])
    def test_gradients(self, memory):
        inputs = make_inputs(3, 33, 64, 12)
        options = {"dropout": 0.4, "training": True}
        torch.manual_seed(11)
        mine = run(dynamic_adapter, inputs, torch.float32, memory=memory, **options)
        torch.manual_seed(11)
        exact = run(
            reference.dynamic_adapter, rounded(inputs, torch.float32), torch.float64, **options
        )
        assert_close(mine, exact, torch.float32)


@pytest.mark.parametrize(("memory", "floats"), [("default", 64 + 4), ("low", 4)])
def test_bytes_kept(memory, floats):
    """Does not count x and the parameters, which autograd keeps anyway."""
    inputs = make_inputs(4, 65, 96, 64)
    tensors = {
        name: value.float().requires_grad_(name != "path_factor") for name, value in inputs.items()
    }
    known = {t.data_ptr() for t in tensors.values()}
    kept = {}

    def pack(t):
        if t.data_ptr() not in known:
            kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out, _ = dynamic_adapter(
            tensors.pop("x"), **tensors, dropout=0.1, training=True, memory=memory
        )
    out.sum().backward()
    tokens, seed = 4 * 65, 8
    assert 0 < sum(kept.values()) <= tokens * floats * 4 + seed


def test_opcheck():
    inputs = {name: value.float() for name, value in make_inputs(2, 5, 16, 4).items()}
    parameters = [inputs[name].requires_grad_() for name in PARAMETERS]
    around = (inputs["mlp_out"], inputs["residual"], inputs["path_factor"])
    seed = torch.tensor(5)
    arguments = (
        inputs["x"].requires_grad_(), *parameters, *around, seed, "gelu", 1.0, 0.2, 1e-5,
        torch.float32, torch.float32, True, True, False,
    )  # fmt: skip
    opcheck(torch.ops.dapt.dynamic_adapter, arguments)


@pytest.mark.parametrize("memory", ["default", "low"])
def test_compiles_without_graph_breaks(memory):
    inputs = make_inputs(2, 9, 48, 8)

    def function(x, **tensors):
        return dynamic_adapter(x, **tensors, memory=memory)

    compiled = torch.compile(function, fullgraph=True)
    eager = run(function, inputs, torch.float32)
    assert_close(run(compiled, inputs, torch.float32), eager, torch.float32)


def test_compiled_dropout_draws_anew():
    """The seed is drawn inside the graph: two calls differ, and the same seed repeats them."""
    x, eye, zero = torch.ones(1, 40, 16), torch.eye(16), torch.zeros(16)

    @torch.compile(fullgraph=True)
    def function(x):
        return dynamic_adapter(
            x, eye, zero, eye, zero, activation="relu", dropout=0.5, training=True, prompt=False
        )[0]

    torch.manual_seed(0)
    first, second = function(x), function(x)
    torch.manual_seed(0)
    assert torch.equal(first, function(x)) and not torch.equal(first, second)


def test_autocast():
    """Like a linear layer: products in bfloat16, parameters and their gradients in float32."""
    inputs = make_inputs(2, 33, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mine = run(dynamic_adapter, inputs, torch.float32)
    exact = run(reference.dynamic_adapter, inputs, torch.float64)
    # Here the rounding of x counts too, unlike in the tests of dtypes.
    assert_close(mine, exact, torch.bfloat16, slack=2)
    x = inputs["x"].float().requires_grad_()
    tensors = {name: value.float() for name, value in inputs.items() if name != "x"}
    del tensors["mlp_out"], tensors["residual"]
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = dynamic_adapter(x, **tensors)
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and x.grad.dtype == torch.float32


def test_nothing_changes_outside_a_cloud():
    """A NaN stays in its own cloud."""
    inputs = {name: value.float() for name, value in make_inputs(3, 9, 48, 8).items()}
    x = inputs.pop("x")
    clean, clean_prompt = dynamic_adapter(x, **inputs)
    x[1, 4, 7] = torch.nan
    out, prompt = dynamic_adapter(x, **inputs)
    assert torch.equal(out[[0, 2]], clean[[0, 2]])
    assert torch.equal(prompt[[0, 2]], clean_prompt[[0, 2]])
    assert out[1, 4].isnan().all() and prompt[1].isnan().any()


@pytest.mark.parametrize("precision", ["tf32", "ieee", "none"])
def test_any_setting_of_tf32_is_read(precision):
    """torch's older setting raises once this one has been set."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    inputs = make_inputs(2, 5, 16, 4)
    try:
        matmul.fp32_precision = precision
        assert tf32_allowed() == (precision == "tf32")
        compiled = torch.compile(lambda: tf32_allowed(), fullgraph=True, backend="eager")
        assert compiled() == (precision == "tf32")
        run(dynamic_adapter, inputs, torch.float32)
    finally:
        matmul.fp32_precision = before


def test_the_older_setting_of_tf32_is_read():
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for allowed in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            assert tf32_allowed() == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class TestAnAdapterForEachCloud:
    """Several adapters in one batch, compared with one adapter at a time."""

    ADAPTERS = torch.tensor([2, 0, 2, 1, 3])

    def given(self, T=37, C=64, r=8, dtype=torch.float32, **options):
        """Inputs of `dynamic_adapters`, with the stacked parameters of five adapters."""
        stack = [make_inputs(1, 1, C, r, seed, path=False, **options) for seed in range(5)]
        inputs = make_inputs(len(self.ADAPTERS), T, C, r, 9, path=False, **options)
        for name in inputs.keys() - set(ACTIVATIONS):
            inputs[name] = torch.stack([one[name] for one in stack])
        return {"adapters": self.ADAPTERS} | {n: t.to(dtype) for n, t in inputs.items()}

    def of_cloud(self, given, b):
        adapter = given["adapters"][b]
        return {
            name: value[b : b + 1] if name in ACTIVATIONS else value[adapter]
            for name, value in given.items()
            if name != "adapters"
        }

    @pytest.mark.parametrize("dtype", list(TOLERANCE))
    @pytest.mark.parametrize("T, C, r", [(1, 48, 1), (37, 64, 8), (97, 100, 13), (200, 96, 30)])
    def test_bit_for_bit(self, on_each_isa, dtype, T, C, r):
        given = self.given(T, C, r, dtype)
        for out, prompt in on_each_isa(dynamic_adapters, **given):
            assert out.isfinite().all() and prompt.isfinite().all()
        for b in range(len(out)):
            alone = dynamic_adapter(**self.of_cloud(given, b))
            torch.set_num_threads(1)
            out, prompt = dynamic_adapters(**given)
            torch.set_num_threads(2)
            assert torch.equal(out[b], alone[0][0]) and torch.equal(prompt[b], alone[1][0])

    @pytest.mark.parametrize("activation", ["gelu", "relu", "quickgelu"])
    @pytest.mark.parametrize("norm", [True, False])
    @pytest.mark.parametrize("dynamic", [True, False])
    def test_equals_twin(self, activation, norm, dynamic):
        given = self.given(norm=norm, dynamic=dynamic, dtype=torch.float64)
        options = {"activation": activation, "static_scale": 0.3, "prompt": dynamic}
        exact = reference.dynamic_adapters(**given, **options)
        mine = dynamic_adapters(**given, **options)
        assert (mine[1] is None) == (exact[1] is None) == (not dynamic)
        torch.testing.assert_close(mine[0], exact[0], rtol=1e-12, atol=1e-12)

    def test_gradients_are_those_of_one_at_a_time(self):
        given = {
            name: value.requires_grad_() if value.is_floating_point() else value
            for name, value in self.given(5, dtype=torch.float64).items()
        }
        out, prompt = dynamic_adapters(**given)
        (out.square().sum() + prompt.sum()).backward()
        found = {name: value.grad for name, value in given.items() if value.requires_grad}
        for value in given.values():
            value.grad = None
        for b in range(len(self.ADAPTERS)):
            out, prompt = dynamic_adapter(**self.of_cloud(given, b))
            (out.square().sum() + prompt.sum()).backward()
        for name, value in found.items():
            torch.testing.assert_close(value, given[name].grad)

    def test_empty_and_strided(self):
        given = self.given()
        wanted, _ = dynamic_adapters(**given)
        strided = {
            name: value.transpose(0, 1).contiguous().transpose(0, 1) if value.dim() > 1 else value
            for name, value in given.items()
        }
        assert torch.equal(dynamic_adapters(**strided)[0], wanted)
        none = {n: t[:0] if n in (*ACTIVATIONS, "adapters") else t for n, t in given.items()}
        out, prompt = dynamic_adapters(**none)
        assert out.shape == (0, 37, 64) and prompt.shape == (0, 64)

    def test_opcheck_and_compile(self):
        given = self.given(5)
        torch._dynamo.reset()
        compiled = torch.compile(dynamic_adapters, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(**given)[0], dynamic_adapters(**given)[0])

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"adapters": torch.tensor([0, 1, 2, 3, 5])}, r"adapters must lie in \[0, 5\)"),
            ({"adapters": torch.tensor([0, 1, -1, 3, 4])}, r"adapters must lie in \[0, 5\)"),
            ({"adapters": torch.tensor([0, 1])}, r"adapters must be \[5\].*got \[2\]"),
            ({"adapters": torch.zeros(5)}, "adapters must be int64, got float32"),
            ({"down_weight": torch.ones(8, 64)}, r"down_weight must be \[A, rank, C\], got \[8"),
            ({"up_weight": torch.ones(4, 64, 8)}, r"up_weight must be \[5, 64, 8\], got \[4"),
            ({"norm_bias": None}, "norm_weight and norm_bias must be given together"),
            ({"scale_bias": None}, "scale_weight and scale_bias must be given together"),
        ],
    )  # fmt: skip
    def test_bad_input(self, changes, message):
        with pytest.raises((RuntimeError, ValueError), match=message):
            dynamic_adapters(**self.given() | changes)
