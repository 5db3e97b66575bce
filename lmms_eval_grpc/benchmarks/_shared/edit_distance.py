"""Edit distance between two sequences: the characters of two texts, or the words of two sentences."""


def edit_distance(first, second):
    """The fewest insertions, deletions and replacements that turn ``first`` into ``second``."""
    above = list(range(len(second) + 1))
    for row, wanted in enumerate(first, start=1):
        current = [row]
        for column, given in enumerate(second, start=1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (wanted != given)))
        above = current
    return above[-1]
