"""The losses of the three training stages. Vectors are [texts, width]; targets have unit length."""

import torch
import torch.nn.functional as F


def distance(vectors, wanted, dimensions: list):
    """1 - cosine to the target, mean over the texts and over the Matryoshka prefixes."""
    total = 0.0
    for size in dimensions:
        total = total + 1 - F.cosine_similarity(vectors[:, :size], wanted[:, :size], dim=-1).mean()
    return total / len(dimensions)


def contrast(vectors, others, duplicate, dimensions: list, temperature: float = 0.05):
    """InfoNCE both ways: text k belongs to other k; `duplicate` marks pairs that are no negatives."""
    total = 0.0
    wanted = torch.arange(len(vectors), device=vectors.device)
    for size in dimensions:
        first = F.normalize(vectors[:, :size], dim=-1)
        second = F.normalize(others[:, :size], dim=-1)
        scores = (first @ second.T / temperature).masked_fill(duplicate, -1e4)
        total = total + (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2
    return total / len(dimensions)


def duplicates(rows):
    """[n, n], true where two texts share the target, off the diagonal."""
    same = rows[:, None] == rows[None, :]
    same.fill_diagonal_(False)
    return same


def similarity(vectors, wanted, dimensions: list):
    """Mean squared difference of the two matrices of cosines: graded pairs, the grades being the teacher's."""
    goal = F.normalize(wanted, dim=-1) @ F.normalize(wanted, dim=-1).T
    total = 0.0
    for size in dimensions:
        unit = F.normalize(vectors[:, :size], dim=-1)
        total = total + (unit @ unit.T - goal).square().mean()
    return total / len(dimensions)


def neighbours(vectors, wanted, dimensions: list, temperature: float = 0.05):
    """Cross-entropy of each text's softmax over the others to the teacher's: who its neighbours are, in order."""
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    goal = F.normalize(wanted, dim=-1)
    goal = (goal @ goal.T / temperature).masked_fill(itself, -1e4).softmax(1)
    total = 0.0
    for size in dimensions:
        unit = F.normalize(vectors[:, :size], dim=-1)
        scores = (unit @ unit.T / temperature).masked_fill(itself, -1e4).log_softmax(1)
        total = total - (goal * scores).sum(1).mean()
    return total / len(dimensions)


#: Weights of the parts of `distillation`, chosen on STS-B's dev split.
CONTRAST_WEIGHT = 0.2
NEIGHBOUR_WEIGHT = 0.3
SIMILARITY_WEIGHT = 50.0


def distillation(vectors, wanted, rows, dimensions: list):
    """What static vectors and the body are trained on, and its first two parts for the log.

    The distance alone draws all vectors to a common direction; the teacher's cosines between texts undo that.
    """
    close = distance(vectors, wanted, dimensions)
    apart = contrast(vectors, wanted, duplicates(rows), dimensions[1:])
    graded = NEIGHBOUR_WEIGHT * neighbours(vectors, wanted, dimensions[1:])
    graded = graded + SIMILARITY_WEIGHT * similarity(vectors, wanted, dimensions[1:])
    return close + CONTRAST_WEIGHT * apart + graded, close.detach(), apart.detach()


#: The share of each prefix in `answers`: 64 counts three times, for that is where short vectors lose most.
ANSWER_DIMENSIONS = [32, 64, 64, 64, 128, 256]


def answers(questions, passages, same):
    """InfoNCE between questions and passages; `same` numbers the passages, equal ones are no negatives."""
    return contrast(questions, passages, duplicates(same), ANSWER_DIMENSIONS)


def same_label(vectors, labels, dimensions: list, temperature: float = 0.1):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2); a text whose label is alone counts for nothing."""
    alike = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (alike & ~itself).float()
    counted = positive.sum(1) > 0
    total = 0.0
    for size in dimensions:
        unit = F.normalize(vectors[:, :size], dim=-1)
        scores = (unit @ unit.T / temperature).masked_fill(itself, -1e4)
        likelihood = scores - scores.logsumexp(1, keepdim=True)
        total = total - ((likelihood * positive).sum(1)[counted] / positive.sum(1)[counted]).mean()
    return total / len(dimensions)
