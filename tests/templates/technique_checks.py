"""Run in the sandbox's Python, where torch is: checks each technique by what it promises and prints {check: "" or what went wrong} as JSON."""

# pyright: basic
import json
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "task_templates"))
from techniques.balanced_sampling import BalancedOrder, cells_of
from techniques.ema import Ema
from techniques.gradient_reversal import auc, fresh_probe_auc, ramp, reverse
from techniques.group_dro import GroupDro
from techniques.last_layer import refit_last_layer
from techniques.losses import class_balanced_weights, dice_loss, focal_loss, ldam_loss, logit_adjusted_loss
from techniques.mixup import cutmix, mixup
from techniques.pseudo_labels import best_threshold, confident, gate_boxes, sharpen
from techniques.tta import DIHEDRAL, FLIP, mean_masks, mean_probabilities, turn, turn_back


def mixup_blends_labels_as_it_blends_images():
    targets = torch.eye(8)
    x = (
        targets[:, :, None, None].expand(8, 8, 2, 2).clone()
    )  # the picture shows its label, so a blend must show its blended label
    mixed, soft = mixup(x, targets)
    assert torch.allclose(mixed[:, :, 0, 0], soft, atol=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(8)) and (soft.max(1).values >= 0.5).all()
    assert not torch.equal(mixed, x)


def mixup_within_groups_never_blends_across_them():
    groups = torch.tensor([0, 1, 0, 1, 0, 1])
    x = groups.float().view(6, 1, 1, 1).expand(6, 1, 2, 2).clone()
    for _ in range(20):
        mixed, _ = mixup(x, torch.eye(6), groups=groups)
        assert torch.equal(mixed, x)  # blends of equal pictures


def cutmix_blends_labels_by_area():
    targets = torch.eye(4)
    x = targets[:, :, None, None].expand(4, 4, 16, 16).clone()
    for _ in range(10):
        mixed, soft = cutmix(x, targets)
        assert torch.allclose(mixed.mean((2, 3)), soft, atol=1e-6)


def ema_is_the_mean_at_first_and_forgets_with_its_half_life():
    net = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(net, half_life=10)
    for value in (1.0, 3.0):
        net.weight.data.fill_(value)
        ema.update(net)
    assert abs(float(ema.net.weight) - 2.0) < 1e-6  # the mean of what it has seen
    for _ in range(1000):
        ema.update(net)
    net.weight.data.fill_(5.0)
    for _ in range(10):
        ema.update(net)
    assert abs(float(ema.net.weight) - 4.0) < 1e-3  # half-way from 3 to 5 after one half-life


def ema_keeps_batch_norm_counters_and_is_no_part_of_the_graph():
    net = torch.nn.BatchNorm1d(2)
    ema = Ema(net)
    net(torch.randn(8, 2) + 5)
    ema.update(net)
    assert int(ema.net.num_batches_tracked) == 1
    assert torch.allclose(ema.net.running_mean, net.running_mean)
    assert not any(parameter.requires_grad for parameter in ema.net.parameters())


def every_view_is_turned_back_to_where_it_was():
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    views = {turn(x, *view).contiguous().numpy().tobytes() for view in DIHEDRAL}
    assert len(views) == 8
    for view in DIHEDRAL:
        assert torch.equal(turn_back(turn(x, *view), *view), x)


def mean_masks_lie_on_their_image_and_mean_probabilities_are_probabilities():
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(mean_masks(lambda v: v, x, DIHEDRAL), x.sigmoid(), atol=1e-6)
    one_sided = lambda v: torch.stack([v[:, 0, :, 0].sum(1), torch.zeros(2)], 1)  # noqa: E731
    p = mean_probabilities(one_sided, x, FLIP)
    assert torch.allclose(p.sum(1), torch.ones(2))
    assert torch.allclose(p, mean_probabilities(one_sided, x.flip(-1), FLIP))  # blind to the flip


def focal_loss_is_cross_entropy_at_gamma_0_and_counts_easy_cases_less():
    logits, y = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    assert torch.allclose(focal_loss(logits, y, gamma=0), F.cross_entropy(logits, y))
    easy, hard = (float(focal_loss(logits[i : i + 1], y[i : i + 1])) for i in (0, 1))
    plain_easy, plain_hard = (float(F.cross_entropy(logits[i : i + 1], y[i : i + 1])) for i in (0, 1))
    assert easy / plain_easy < 0.01 < hard / plain_hard < 1


def ldam_asks_more_of_the_rare_class():
    logits = torch.zeros(1, 2)
    counts = torch.tensor([10_000, 16])
    common, rare = (float(ldam_loss(logits, torch.tensor([k]), counts, scale=1.0)) for k in (0, 1))
    margin = 0.5 * (16 / 10_000) ** 0.25  # of the common class; that of the rare one is 0.5
    assert abs(common - np.log1p(np.exp(margin))) < 1e-5 and abs(rare - np.log1p(np.exp(0.5))) < 1e-5


def class_balanced_weights_and_logit_adjustment_favour_rare_classes():
    counts = torch.tensor([1000, 10])
    weights = class_balanced_weights(counts)
    assert weights[1] > weights[0] and abs(float(weights.mean()) - 1) < 1e-6
    logits = torch.zeros(1, 2)
    assert float(logit_adjusted_loss(logits, torch.tensor([1]), counts)) > float(
        logit_adjusted_loss(logits, torch.tensor([0]), counts)
    )


def dice_loss_is_0_for_the_truth_and_also_when_there_is_nothing():
    masks = (torch.rand(2, 1, 8, 8) > 0.7).float()
    assert float(dice_loss((masks - 0.5) * 100, masks)) < 1e-4
    assert float(dice_loss((0.5 - masks) * 100, masks)) > 0.9
    assert float(dice_loss(torch.full((2, 1, 8, 8), -50.0), torch.zeros(2, 1, 8, 8))) < 1e-4


def the_gradient_comes_back_reversed():
    x = torch.ones(3, requires_grad=True)
    y = reverse(x, 0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(x.grad, torch.tensor([-0.5, -1.0, -1.5]))
    assert ramp(0.0) == 0.0 and ramp(1.0) > 0.999 and ramp(0.1) < ramp(0.2)


def auc_agrees_with_counting_pairs():
    scores, y = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.3, 0.4]), torch.tensor([0, 1, 0, 1, 1, 0])
    pairs = [(p > n) + (p == n) / 2 for p in scores[y == 1].tolist() for n in scores[y == 0].tolist()]
    assert abs(auc(scores, y) - sum(pairs) / len(pairs)) < 1e-9


def a_fresh_probe_finds_what_is_there_and_nothing_where_nothing_is():
    attribute = torch.arange(800) // 2 % 2
    noise = torch.randn(800, 16)
    told = noise + attribute[:, None] * torch.linspace(0, 1, 16)
    assert fresh_probe_auc(told, attribute) > 0.85
    assert abs(fresh_probe_auc(noise, attribute) - 0.5) < 0.1
    with torch.no_grad():
        assert fresh_probe_auc(told, attribute) > 0.85  # also inside an evaluation


def gradient_reversal_takes_an_attribute_out_of_features():
    attribute = (torch.rand(1024) < 0.5).float()
    disease = (torch.rand(1024) < 0.5).float()
    x = torch.stack([disease * 2 - 1, attribute * 2 - 1], 1) + 0.1 * torch.randn(1024, 2)

    def features(strength):
        torch.manual_seed(0)
        body, disease_head, attribute_head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        parts = torch.nn.ModuleList([body, disease_head, attribute_head])
        optimizer = torch.optim.SGD(parts.parameters(), lr=0.1, weight_decay=0.01)
        for _ in range(400):
            z = body(x)
            loss = F.binary_cross_entropy_with_logits(disease_head(z)[:, 0], disease)
            loss = loss + F.binary_cross_entropy_with_logits(attribute_head(reverse(z, strength))[:, 0], attribute)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return z.detach()

    told, gone = features(-1.0), features(1.0)  # a strength of -1 is plain multi-task learning
    assert fresh_probe_auc(told, attribute) > 0.99
    spread = lambda z: float((z[attribute > 0.5].mean(0) - z[attribute < 0.5].mean(0)).norm() / z.std())  # noqa: E731
    assert spread(gone) < spread(told) / 3
    assert fresh_probe_auc(gone, disease) > 0.99


def balanced_order_gives_each_cell_its_share_and_every_row_its_turn():
    disease, drain = np.array([0] * 90 + [1] * 10), np.array([0] * 85 + [1] * 5 + [0] * 4 + [1] * 6)
    cells, known = cells_of(disease, drain)
    assert known == [(0, 0), (0, 1), (1, 0), (1, 1)]
    order = BalancedOrder(cells, np.random.default_rng(0))
    drawn = [order.draw(10) for _ in range(40)]
    counts = np.array([np.bincount(cells[rows], minlength=4) for rows in drawn])
    assert ((counts >= 2) & (counts <= 3)).all() and (counts.sum(1) == 10).all()
    assert np.abs(counts.mean(0) - 2.5).max() < 0.4
    rare = np.concatenate(drawn)[np.isin(np.concatenate(drawn), np.flatnonzero(cells == 2))]
    times = np.bincount(rare, minlength=100)[cells == 2]
    assert times.max() - times.min() <= 1  # no row again before every other


def balanced_order_follows_given_shares():
    order = BalancedOrder(np.array([0] * 50 + [1] * 50), np.random.default_rng(1), shares=[2, 1])
    rows = np.concatenate([order.draw(8) for _ in range(300)])
    assert abs((rows < 50).mean() - 2 / 3) < 0.01


def group_dro_moves_weight_to_the_group_that_suffers():
    dro = GroupDro(3, step=0.5)
    losses, groups = torch.tensor([0.1, 0.1, 2.0], requires_grad=True), torch.tensor([0, 0, 1])
    first = float(dro(losses, groups))
    for _ in range(20):
        last = dro(losses, groups)
    assert float(dro.weights[1]) > 0.9 and first < float(last) <= 2.0
    last.backward()
    assert losses.grad[2] > 10 * losses.grad[0] > 0
    assert torch.isfinite(dro.weights).all()


def last_layer_retraining_stops_leaning_on_the_shortcut():
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(4000, generator=generator) < 0.5).long()
    agrees = torch.rand(4000, generator=generator) < 0.95  # the shortcut usually says the same
    shortcut = torch.where(agrees, y, 1 - y)
    core = (y * 2 - 1) + 1.5 * torch.randn(4000, generator=generator)
    features = torch.stack([core, (shortcut * 2 - 1) + 0.1 * torch.randn(4000, generator=generator)], 1)
    weight, bias = refit_last_layer(features, y, 2 * y + shortcut, 2)
    plain, _ = refit_last_layer(features, y, torch.zeros_like(y), 2)
    reliance = lambda w: abs(float(w[1, 1] - w[0, 1]) / float(w[1, 0] - w[0, 0]))  # noqa: E731
    assert reliance(weight) < 0.1 < reliance(plain)
    assert ((features @ weight.T + bias).argmax(1) == y).float()[~agrees].mean() > 0.65


def pseudo_labels_are_what_the_teacher_is_sure_of():
    p = torch.tensor([[0.95, 0.05], [0.6, 0.4], [0.02, 0.98]])
    rows, labels = confident(p)
    assert rows.tolist() == [0, 2] and labels.tolist() == [0, 1]
    assert torch.allclose(sharpen(p).sum(1), torch.ones(3)) and (sharpen(p).max(1).values > p.max(1).values).all()


def pseudo_boxes_agree_with_the_label_of_the_image():
    low, high = (0, 1, 1, 5, 5, 0.2), (0, 9, 9, 5, 5, 0.8)
    assert gate_boxes([low, high], False) == []
    assert gate_boxes([low, high], True) == [high]
    assert gate_boxes([low], True) == [low]
    assert gate_boxes([(0, 1, 1, 5, 5, 0.01)], True) is None and gate_boxes([], True) is None


def the_threshold_of_pseudo_labels_is_the_best_by_f_beta():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random(60), 1)
    truth = rng.random(60) < scores
    value = lambda t, b: (1 + b * b) * truth[scores >= t].sum() / ((scores >= t).sum() + b * b * 40)  # noqa: E731
    for beta in (0.5, 1.0, 2.0):
        found = best_threshold(scores, truth, 40, beta)
        assert value(found, beta) == max(value(t, beta) for t in np.unique(scores))


def main():
    torch.set_num_threads(1)
    found = {}
    for name, check in list(globals().items()):
        if callable(check) and getattr(check, "__module__", "") == "__main__" and name != "main":
            torch.manual_seed(0)
            try:
                check()
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc(limit=-2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
