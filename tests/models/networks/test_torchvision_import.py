"""torchvision without dynamo: what it takes at its import, and what its functions do later; a process for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROI_ALIGN = "torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2)"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_networks_are_built_without_dynamo() -> None:
    assert run(
        "import sys\n"
        "from models.networks.catalog import build_network\n"
        "network = build_network('squeezenet1_1', classes=3)\n"
        "print(type(network).__module__, 'torch._dynamo' in sys.modules, 'torch._dynamo.utils' in sys.modules)\n"
    ) == "torchvision.models.squeezenet False False"  # fmt: skip


def test_what_was_put_off_is_there_when_it_is_called() -> None:
    assert run(
        "import torch\n"
        "from models.networks.torchvision_import import import_torchvision\n"
        "torchvision = import_torchvision()\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "answer = is_compile_supported('cpu')\n"
        "import torch._dynamo.utils\n"
        "print(answer == torch._dynamo.utils.is_compile_supported('cpu'), torch._dynamo.utils.__file__ is not None)\n"
        f"print({ROI_ALIGN}.flatten().tolist())\n"
    ).split("\n") == ["True True", "[1.0, 1.0, 1.0, 1.0]"]  # fmt: skip


@pytest.mark.parametrize("before", ["import torchvision", "import torch._dynamo"])
def test_what_is_imported_already_stays(before: str) -> None:
    assert run(
        f"{before}\n"
        "import sys, torch._dynamo.utils\n"
        "real = sys.modules['torch._dynamo.utils']\n"
        "from models.networks.torchvision_import import import_torchvision\n"
        "print(import_torchvision().__name__, sys.modules['torch._dynamo.utils'] is real)\n"
    ) == "torchvision True"  # fmt: skip
