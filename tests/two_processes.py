"""What ``test_parallel.py`` starts as one process and as two: some steps in float64, and what came of them.

python tests/two_processes.py OUT [settings]      torchrun --nproc-per-node 2 tests/two_processes.py OUT [settings]
"""

import itertools
import sys
from pathlib import Path

import torch

from resexp import config
from resexp.builder import build_state, load_data
from resexp.data.normalize import Normalization
from resexp.evaluate import evaluate
from resexp.parallel import end_process, join_world, leave_world
from resexp.training import train_step

STEPS = 10


def main() -> None:
    out, words = Path(sys.argv[1]), sys.argv[2:]
    cfg = config.load(words)
    p = cfg.protocol
    world = join_world(p.batch_size, p.norm_group)
    data = load_data(cfg)
    state = build_state(cfg, data, torch.device("cpu"), world)
    state.net.double()
    state.parallel_net = world.wrap(state.net, drops_blocks=False)
    single = state.batches.normalization
    state.batches.normalization = Normalization(single.mean.double())
    state.optimizer.velocities = [velocity.double() for velocity in state.optimizer.velocities]
    state.optimizer.lr = p.lr
    found: dict[str, object] = {"seen": []}
    for step in range(STEPS):
        drawn = next(state.batches)
        train_step(state, *drawn)
        found["seen"].append(list(itertools.chain(*world.gather(drawn[1].tolist()))))
        if step == 0:
            found["gradients"] = [parameter.grad.clone() for parameter in state.net.parameters()]
            found["batch"] = world.sum(state.counts.batch)
    world.average_buffers(state.net)
    found["net"] = state.net.state_dict()
    found["evaluation"] = list(evaluate(state.net.float(), data.test, single, precision="fp32", world=world))
    if world.is_first:
        torch.save(found, out)
    world.barrier()
    leave_world()
    end_process(0)


if __name__ == "__main__":
    main()
