"""Order and noise are functions of counters: nothing that happened before matters."""

import numpy as np

from lib.core.order import Key, micro_batch_keys, mix, noise_seed, permutation, sample_at


def keys_of_step(step, micro_batch, global_batch=6, length=10):
    orders = {}
    return [
        key
        for k in range(global_batch // micro_batch)
        for key in micro_batch_keys(step, k, micro_batch, global_batch, 42, length, orders)
    ]


def test_the_samples_of_a_step_do_not_depend_on_the_micro_batch():
    for step in range(7):
        assert keys_of_step(step, 1) == keys_of_step(step, 2) == keys_of_step(step, 3) == keys_of_step(step, 6)


def test_every_epoch_holds_every_sample_once_and_epochs_differ():
    drawn = [key.index for step in range(10) for key in keys_of_step(step, 2)]  # 60 samples = 6 epochs of 10
    epochs = [drawn[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_a_late_step_drawn_first_is_the_same_step():
    late = keys_of_step(50, 2)
    for step in range(50):
        keys_of_step(step, 2)
    assert keys_of_step(50, 2) == late


def test_epochs_are_dropped_from_memory():
    orders = {}
    for position in range(1000):
        sample_at(position, 1, 10, orders)
    assert len(orders) <= 2


def test_a_key_gives_the_same_numbers_each_time_and_others_for_every_counter():
    drawn = {key: tuple(Key(*key).generator().integers(0, 1 << 62, 2)) for key in np.ndindex(3, 3, 3)}
    assert len(set(drawn.values())) == 27
    assert tuple(Key(1, 2, 0).generator().integers(0, 1 << 62, 2)) == drawn[1, 2, 0]


def test_mix_depends_on_every_number_and_its_place():
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for number in (7, 11):
        state = ((state ^ number) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state = ((state ^ (state >> 31)) + 0x9E3779B97F4A7C15) & mask
    assert mix(7, 11) == state != mix(11, 7)


def test_noise_seeds_fit_torch_and_differ():
    seeds = {noise_seed(42, step, k, objective) for step in range(20) for k in range(5) for objective in range(2)}
    assert len(seeds) == 200 and all(0 <= seed < 1 << 63 for seed in seeds)


def test_permutation_holds_every_index():
    assert sorted(permutation(3, 4, 100)) == list(range(100))
