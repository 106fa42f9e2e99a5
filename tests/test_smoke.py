"""The least that must work under every supported MindSpore: a forward, a train step, an export that is read back.

Needs pytest and the core dependencies only: ``make smoke-newest`` runs it in an environment of its own.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from acmix_ms import config, deploy, runtime
from acmix_ms.data import create_loader
from acmix_ms.engine.optim import set_learning_rate
from acmix_ms.engine.trainer import Trainer
from models import create_model

pytestmark = pytest.mark.smoke
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "classification" / "acmix_resnet_digits.yaml"


@pytest.fixture
def net():
    runtime.start(mode="graph")
    return create_model("acmix_resnet_digits", num_classes=10)


def test_versions_are_told():
    # So that the log of a run says what it stood on.
    print(f"\nMindSpore {ms.__version__}, NumPy {np.__version__}, on {ms.get_context('device_target')}")
    assert runtime.mindspore_version() == tuple(int(part) for part in ms.__version__.split(".")[:2])


def test_forward(net):
    net.set_train(False)
    logits = net(ms.ops.ones((2, 3, 32, 32), ms.float32)).asnumpy()
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()


def test_train_step_learns_its_batch(net, tmp_path):
    cfg = config.load(CONFIG, [f"run_dir={tmp_path}", "data.batch_size=32"])
    loaders = [create_loader(cfg.data, split, seed=cfg.seed) for split in ("train", "val")]
    batch = next(loaders[0].epoch(0))
    images, labels = (ms.Tensor(values) for values in (batch.images, *batch.targets))
    before = {parameter.name: parameter.asnumpy().copy() for parameter in net.trainable_params()}

    trainer = Trainer(net, cfg, *loaders)
    trainer.model.set_train(True)
    set_learning_rate(trainer.optimizer, 0.01)
    losses = []
    for _ in range(4):
        loss, _, finite = trainer.train_step(images, labels)
        assert bool(finite.asnumpy())
        losses.append(float(loss.asnumpy()))

    assert losses[-1] < losses[0]
    still = [p.name for p in net.trainable_params() if np.array_equal(p.asnumpy(), before[p.name])]
    # The bias of the position term is the same for every tap, so the softmax cancels it: no gradient reaches it.
    assert [name for name in still if not name.endswith("conv_p.bias")] == []


def test_exported_file_computes_the_same(net, tmp_path):
    path = deploy.export(net, "mindir", tmp_path / "digits.mindir", image_size=32, batch=1)
    image = np.random.rand(1, 3, 32, 32).astype(np.float32)
    assert deploy.verify(path, net, [image]).relative < 1e-6
    net.fc.weight.set_data(net.fc.weight + 1)  # the comparison can fail
    assert deploy.verify(path, net, [image]).relative > 1e-3
