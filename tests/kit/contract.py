"""The contract of an op, as a class of tests: a test file subclasses it and says how its op is called.

What design and users expect of every op is tested here once: the float64 reference, gradients, memory layouts, empty
and poisoned tensors, opcheck, compile, export, vmap, autocast, determinism, threads, backends.
"""

import pytest
import torch

import mer_fast
from mer_fast.ops._registry import OPS

from .compare import assert_near
from .layouts import LAYOUTS, laid_out

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class OpContract:
    """Subclasses set `op`, `inputs`, `call` and, where they differ, the rest."""

    op: str  # name in the registry
    dtypes = FLOATS
    differentiable = True
    empty_shapes: tuple = ()  # shapes of the first input that have no element

    def inputs(self, dtype, device):
        """Fresh random tensors for one call, of odd sizes."""
        raise NotImplementedError

    def call(self, *inputs):
        """The public op on these inputs."""
        raise NotImplementedError

    def opcheck_arguments(self, device):
        """Argument tuples for the operator(s) of torch.ops.mer_fast: {operator name: arguments}."""
        raise NotImplementedError

    def near(self, out, ref, dtype, gradient=False):
        """Asserts that a result is as near the float64 reference as its dtype allows."""
        assert_near(out, ref, dtype, gradient)

    # --- helpers ---------------------------------------------------------------------------------------------------
    def reference(self, *inputs):
        with mer_fast.backend("reference"):
            return self.call(*(x.double() if x.is_floating_point() else x for x in inputs))

    def gradients(self, call, inputs, grad):
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = call(*inputs)
        return torch.autograd.grad(out, inputs, grad.to(out))

    # --- values ----------------------------------------------------------------------------------------------------
    def test_matches_the_float64_reference(self, device):
        for dtype in self.dtypes:
            inputs = self.inputs(dtype, device)
            out = self.call(*inputs)
            assert out.device.type == device
            self.near(out, self.reference(*inputs), dtype)

    def test_every_element_is_written(self, device):
        inputs = self.inputs(torch.float32, device)
        expected = self.call(*inputs)
        torch.use_deterministic_algorithms(True)  # fills new memory with NaN
        try:
            out = self.call(*inputs)
        finally:
            torch.use_deterministic_algorithms(False)
        assert torch.equal(out, expected)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_takes_any_memory_layout(self, device, layout):
        inputs = self.inputs(torch.float32, device)
        out = self.call(*(laid_out(x, layout) for x in inputs))
        assert torch.equal(out, self.call(*inputs))

    def test_takes_expanded_input(self, device):
        inputs = [x[:1].expand(3, *x.shape[1:]) for x in self.inputs(torch.float32, device)]
        assert torch.equal(self.call(*inputs), self.call(*(x.contiguous() for x in inputs)))

    def test_empty(self, device):
        for shape in self.empty_shapes:
            for dtype in self.dtypes:
                inputs = [torch.empty(shape, dtype=dtype, device=device) for _ in self.inputs(dtype, device)]
                with mer_fast.backend("reference"):
                    expected = self.call(*inputs)
                out = self.call(*inputs)
                assert out.shape == expected.shape
                assert out.dtype == expected.dtype

    def test_is_deterministic_and_does_not_depend_on_threads(self):
        inputs = self.inputs(torch.float32, "cpu")
        first, threads = self.call(*inputs), torch.get_num_threads()
        try:
            for count in (1, 2, 3, threads):
                torch.set_num_threads(count)
                assert torch.equal(self.call(*inputs), first)
        finally:
            torch.set_num_threads(threads)

    # --- gradients -------------------------------------------------------------------------------------------------
    def test_gradients_match_the_float64_reference(self, device):
        if not self.differentiable:
            pytest.skip("not differentiable, by design")
        for dtype in self.dtypes:
            inputs = self.inputs(dtype, device)
            grad = torch.randn_like(self.call(*inputs))
            for got, want in zip(
                self.gradients(self.call, inputs, grad),
                self.gradients(self.reference, [x.double() for x in inputs], grad),
                strict=True,
            ):
                self.near(got, want, dtype, gradient=True)

    def test_gradcheck(self, device):
        if not self.differentiable:
            pytest.skip("not differentiable, by design")
        inputs = [x.requires_grad_() for x in self.inputs(torch.float64, device)]
        assert torch.autograd.gradcheck(self.call, inputs, fast_mode=True)

    @pytest.mark.parametrize("layout", [*LAYOUTS, "expanded"])
    def test_takes_gradients_of_any_stride(self, device, layout):
        if not self.differentiable:
            pytest.skip("not differentiable, by design")
        inputs = self.inputs(torch.float32, device)
        out = self.call(*inputs)
        grad = torch.randn((), device=device).expand_as(out) if layout == "expanded" else laid_out(torch.randn_like(out), layout)
        for got, want in zip(
            self.gradients(self.call, inputs, grad), self.gradients(self.call, inputs, grad.contiguous()), strict=True
        ):
            assert torch.equal(got, want)

    # --- the ecosystem ---------------------------------------------------------------------------------------------
    def test_opcheck(self, device):
        for name, arguments in self.opcheck_arguments(device).items():
            torch.library.opcheck(getattr(torch.ops.mer_fast, name).default, arguments)

    def test_compiles_without_a_graph_break(self, device):
        torch.compiler.reset()
        inputs = self.inputs(torch.float32, device)
        compiled = torch.compile(self.call, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*inputs), self.call(*inputs))
        if self.differentiable:
            grad = torch.randn_like(self.call(*inputs))
            for got, want in zip(
                self.gradients(compiled, inputs, grad), self.gradients(self.call, inputs, grad), strict=True
            ):
                assert torch.equal(got, want)

    def test_compiles_once_for_all_batch_sizes(self, device):
        torch.compiler.reset()
        compiled = torch.compile(self.call, fullgraph=True, backend="aot_eager", dynamic=True)
        inputs = self.inputs(torch.float32, device)
        for copies in (2, 3, 5):
            several = [torch.cat([x] * copies) for x in inputs]
            assert torch.equal(compiled(*several), self.call(*several))

    def test_exports(self, device):
        inputs = tuple(self.inputs(torch.float32, device))
        call = self.call

        class Module(torch.nn.Module):
            def forward(self, *inputs):
                return call(*inputs)

        program = torch.export.export(Module(), inputs)
        assert torch.equal(program.module()(*inputs), self.call(*inputs))

    def test_vmaps_over_an_extra_batch(self, device):
        inputs = [torch.stack([x, x.flip(-1), x.flip(0)], 1) for x in self.inputs(torch.float32, device)]
        out = torch.vmap(self.call, in_dims=1, out_dims=1)(*inputs)
        for k in range(3):
            assert torch.equal(out[:, k], self.call(*(x[:, k] for x in inputs)))

    def test_keeps_its_dtype_under_autocast(self, device):
        inputs = self.inputs(torch.float32, device)
        with torch.autocast(device, dtype=torch.bfloat16):
            out = self.call(*inputs)
        assert torch.equal(out, self.call(*inputs))

    @pytest.mark.cuda
    def test_is_captured_in_a_cuda_graph(self):
        inputs = self.inputs(torch.float32, "cuda")
        if "cuda" not in OPS[self.op].kernels and "triton" not in OPS[self.op].kernels:
            pytest.skip(f"{self.op} has no GPU kernel yet")
        expected = self.call(*inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.call(*inputs)
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, expected)

    # --- backends --------------------------------------------------------------------------------------------------
    def test_says_which_implementations_there_are(self):
        inputs = [x.to("meta") for x in self.inputs(torch.float32, "cpu")]
        with pytest.raises(mer_fast.BackendError, match=rf"{self.op}: no kernel for this meta tensor .*cpu: for CPU tensors"):
            self.call(*inputs)
        with pytest.raises(mer_fast.BackendError, match=f"{self.op}: no kernel.*triton"), mer_fast.backend("triton"):
            self.call(*self.inputs(torch.float32, "cpu"))
