"""Where a bad number was made: in a module, in the backward pass, in the gradient alone."""

import pytest
import torch

from lib.core.errors import Stop
from lib.core.records import Parts
from lib.network import anomaly
from lib.network.gradients import GradientSum


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch prints the line as a warning
def test_a_backward_pass_that_makes_nan_is_named():
    x = torch.zeros(1, requires_grad=True)
    words = "the backward pass of SqrtBackward0 gave a number that is not finite"
    with pytest.raises(Stop, match=words), anomaly.named(Parts({})):
        (torch.sqrt(x) * 0).sum().backward()


def test_the_first_module_whose_output_is_not_finite_is_named():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[0].weight.data = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # infinity less infinity, always
    words = r"net\.0 \(Linear\) is the first module whose output is not finite"
    with pytest.raises(Stop, match=words), anomaly.named(Parts({"net": net})):
        net(torch.full((1, 2), float("inf")))
    assert torch.isnan(net(torch.full((1, 2), float("inf")))).any()  # afterwards nobody listens


def test_a_loss_and_a_gradient_that_are_not_finite_are_named():
    with pytest.raises(Stop, match="the loss fit of s1"):
        anomaly.refuse_bad_loss("fit", torch.tensor(float("nan")), ["s1"])
    anomaly.refuse_bad_loss("fit", torch.tensor(1.0), ["s1"])
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.grad = torch.tensor([1.0, float("inf")])
    sums = GradientSum({"net.a": tensor})
    sums.collect()
    with pytest.raises(Stop, match=r"net\.a"):
        anomaly.refuse_bad_gradient(sums)
