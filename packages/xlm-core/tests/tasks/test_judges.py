"""Judges against brute force: every valid answer is accepted, every other one is not."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.locator import locate
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.tasks.arithmetic import Additions, is_sum
from xlm.tasks.cfg import Grammar, brackets, grammar_of, is_sentence
from xlm.tasks.countdown import Countdown, reaches_target, value_of
from xlm.tasks.gram_graph_coloring import COLOURS, Colourings, is_colouring
from xlm.tasks.gram_n_queens import Queens, is_completion
from xlm.tasks.sudoku import Sudoku, draw_board, is_solution, solutions, sudoku_preprocess
from xlm.tasks.sudoku_extreme import SudokuExtreme, sudoku_extreme_preprocess
from xlm.tasks.zebra import Zebra, fits_clues

# A published puzzle: the example of Wikipedia's article on sudoku.
PUZZLE = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


@pytest.mark.parametrize("difficulty", Sudoku.difficulties)
def test_sudokus_have_one_solution_and_the_clues_of_their_level(difficulty: str) -> None:
    level = Sudoku.difficulties[difficulty]
    for row in Sudoku(None, 20, difficulty=difficulty):
        cells = [int(digit) for digit in row["puzzle"]]
        assert level.min_clues <= sum(cell > 0 for cell in cells) <= level.max_clues + 2
        assert [list(map(int, row["solution"]))] == list(solutions(cells))


def test_the_solver_finds_every_solution() -> None:
    assert ["".join(map(str, found)) for found in solutions([int(c) for c in PUZZLE])] == [SOLUTION]
    assert sum(1 for _ in solutions([0] * 16)) == 288
    # Any row can be computed from the others, here the first.
    (again,) = solutions([0] * 9 + [int(c) for c in SOLUTION[9:]])
    assert "".join(map(str, again)) == SOLUTION
    assert list(solutions([1, 1] + [0] * 14)) == []


@given(st.integers(0, 80), st.integers(1, 9))
def test_a_changed_cell_is_no_solution(place: int, digit: int) -> None:
    changed = SOLUTION[:place] + str(digit) + SOLUTION[place + 1 :]
    assert is_solution(PUZZLE, changed) == (changed == SOLUTION)


def test_every_solution_of_a_puzzle_with_several_is_accepted() -> None:
    full = [list(map(str, found)) for found in solutions([0] * 16)]
    assert all(is_solution("0" * 16, " ".join(found)) for found in full)
    clue = "1" + "0" * 15
    assert sum(is_solution(clue, "".join(found)) for found in full) == 72


def test_published_sudoku_files(tmp_path: Path) -> None:
    tokenizer = SimpleSpaceTokenizer.for_numbers(10)
    (tmp_path / "s.csv").write_text(f"puzzle,solution\n{PUZZLE},{SOLUTION}\n{PUZZLE.replace('0', '.')},{SOLUTION}\n")
    first, second = locate(str(tmp_path / "s.csv")).rows(tokenizer)
    ids = sudoku_preprocess(first, tokenizer)
    assert tokenizer.decode(ids["prompt_ids"]) == " ".join(PUZZLE)
    assert sudoku_preprocess(second, tokenizer) == ids
    extreme = {"source": "x", "question": PUZZLE, "answer": SOLUTION, "rating": "3"}
    assert sudoku_extreme_preprocess(extreme, tokenizer) == ids
    (row,) = SudokuExtreme(None, 1, difficulty="hard")
    assert sudoku_extreme_preprocess(row, tokenizer)
    with pytest.raises(DataError, match="does not solve the puzzle"):
        sudoku_preprocess({**first, "solution": SOLUTION[::-1]}, tokenizer)
    with pytest.raises(DataError, match="has 80 characters; a sudoku has 81 cells, or 16"):
        sudoku_preprocess({**first, "puzzle": PUZZLE[1:]}, tokenizer)
    with pytest.raises(DataError, match="column 'solution' is missing; it has: puzzle"):
        sudoku_preprocess({"puzzle": PUZZLE}, tokenizer)


def test_blanks_may_be_masks() -> None:
    tokenizer = SimpleSpaceTokenizer.for_numbers(10)
    row = {"puzzle": PUZZLE, "solution": SOLUTION}
    prompt = tokenizer.decode(sudoku_preprocess(row, tokenizer, masks=True)["prompt_ids"])
    assert prompt.startswith("5 3 [MASK] [MASK] 7")
    assert is_solution(prompt, SOLUTION)
    assert not is_solution(prompt, SOLUTION.translate(str.maketrans("12", "21")))
    # An unconditional sample is valid if it is any full board.
    assert is_solution("", SOLUTION.translate(str.maketrans("12", "21")))
    assert not is_solution("", PUZZLE)


def test_a_sudoku_is_drawn_with_its_boxes_and_solution() -> None:
    drawing = draw_board(" ".join(PUZZLE))
    assert drawing is not None
    assert drawing["box"] == [3, 3]
    assert drawing["cells"][0] == ["5", "3", None, None, "7", None, None, None, None]
    assert "".join(cell for row in drawing["right"] for cell in row) == SOLUTION


@given(st.integers(0, 10**25), st.integers(0, 10**25), st.integers(-3, 3))
def test_sums(a: int, b: int, error: int) -> None:
    answer = str(abs(a + b + error))
    assert is_sum(f"{a}+{b}=", " ".join(answer)) == (answer == str(a + b))
    assert is_sum(f"{a}+{b}=", answer[::-1], reverse=True) == (answer == str(a + b))
    assert not is_sum(f"{a}+{b}=", f"0{a + b}")


def test_a_reversed_answer_has_its_last_digit_first() -> None:
    plain, turned = (list(Additions(None, 20, difficulty="hard", reverse=reverse)) for reverse in (False, True))
    assert [row["answer"][::-1] for row in plain] == [row["answer"] for row in turned]
    assert all(is_sum(row["prompt"], row["answer"], reverse=True) for row in turned)


def test_all_placements_of_six_queens() -> None:
    placements = [" ".join(map(str, columns)) for columns in permutations(range(1, 7))]
    assert not is_completion("0 0 0 0 0 0", "1 1 3 5 2 4")
    assert sum(is_completion("0 0 0 0 0 0", placement) for placement in placements) == 4
    assert [p for p in placements if is_completion("3 0 0 0 0 0", p)] == ["3 6 2 5 1 4"]
    assert not is_completion("0 0 0 0 0 0", "3 6 2 5 1 7")


def test_queens_are_drawn_as_given() -> None:
    for row in Queens(None, 5, difficulty="easy"):
        given_columns, answer = row["prompt"].split(), row["answer"].split()
        assert all(want in ("0", got) for want, got in zip(given_columns, answer, strict=True))


def test_all_colourings_of_a_small_graph() -> None:
    # A triangle and a node that is joined to one of its corners.
    prompt = "4 0 1 2 1 0 2 3 0"
    found = [c for c in map(" ".join, product(COLOURS, repeat=4)) if is_colouring(prompt, c)]
    assert len(found) == 6 * 2
    assert not is_colouring(prompt, "r g b x")
    assert not is_colouring("3 0 1 1 3", "r g r")  # node 3 doesn't exist


def test_graphs_with_the_same_edges_are_the_same() -> None:
    graphs = Colourings(None, 1)
    content = graphs.content({"prompt": "4 0 1 2 1 0 2"})
    assert content == graphs.content({"prompt": "4 1 2 2 0 1 0"})
    assert content != graphs.content({"prompt": "5 0 1 2 1 0 2"})


# Random expressions with their values by Python.
numbers = st.integers(0, 9).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"( {t[0]} {t[1]} {t[2]} )")
        | st.tuples(inner, st.sampled_from("+-*"), inner).map(" ".join)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(expressions)
def test_expressions_have_the_value_that_python_gives_them(text: str) -> None:
    try:
        expected = eval(
            " ".join(f"Fraction({t})" if t.isdecimal() else t for t in text.split()), {"Fraction": Fraction}
        )
    except ZeroDivisionError:
        expected = None
    assert value_of(text.split()) == expected


@pytest.mark.parametrize(
    "text", ["", "(", ")", "1 +", "+ 1", "1 2", "( 1", "1 )", "( )", "1 ) ( 2", "1 + + 2", "( " * 400]
)
def test_what_is_no_expression_has_no_value(text: str) -> None:
    assert value_of(text.split()) is None


def test_any_expression_of_all_numbers_reaches_the_target() -> None:
    accepted = ["( 25 - 3 ) * 2 + 4", "4 + 2 * ( 25 - 3 )", "4-2*(3-25)", "( 25 - 3 ) / ( 2 / 4 ) + 4"]
    assert [reaches_target("3 25 2 4 : 48", answer) for answer in accepted] == [True, True, True, False]
    assert reaches_target("8 3 3 8 : 24", "8 / ( 3 - 8 / 3 )")
    for wrong in ("48", "25 + 3 * 4 + 2 - 25 + 34", "( 25 - 3 ) * 2 + 4 = 48", "(25-3)*2+04", "٢٥"):
        assert not reaches_target("3 25 2 4 : 48", wrong)
    for row in Countdown(None, 50, difficulty="hard"):
        assert reaches_target(row["prompt"], row["answer"].replace(" ", ""))


def test_the_parser_agrees_with_counting_brackets() -> None:
    grammar, pairs = brackets(2), {")": "(", "]": "["}

    def balanced(words: tuple[str, ...]) -> bool:
        stack: list[str] = []
        for word in words:
            if word in pairs:
                if not stack or stack.pop() != pairs[word]:
                    return False
            else:
                stack.append(word)
        return bool(words) and not stack

    for length in range(7):
        sentences = [words for words in product("()[]", repeat=length) if grammar.accepts(words)]
        assert sentences == [words for words in product("()[]", repeat=length) if balanced(words)]
        assert grammar.count(("S",), length) == len(sentences)  # one derivation each


def test_ambiguous_and_left_recursive_grammars() -> None:
    sums = Grammar({"E": "E + E | E + x | x"})
    assert [sums.accepts(["x", *["+", "x"] * n]) for n in range(5)] == [True] * 5
    assert not sums.accepts(["x", "+"])
    assert not sums.accepts([])
    assert sums.words == ["+", "x"]
    with pytest.raises(DataError, match="The symbol S has an empty alternative"):
        Grammar({"S": "( S ) |"})


def test_samples_are_sentences_of_the_length_and_all_occur() -> None:
    random = Random(0)
    grammar = brackets(1)
    found = {" ".join(grammar.sample(6, random)) for _ in range(200)}
    assert len(found) == 5  # Catalan's number
    assert all(grammar_of("hard").accepts(grammar_of("hard").sample(60, random)) for _ in range(3))
    assert not is_sentence("( )", "", difficulty="mini")


def test_zebra_answers_are_those_that_fit_all_clues() -> None:
    for row in Zebra(None, 20, difficulty="mini"):
        houses = [[f"{k}{n}" for n in order] for k in "ab" for order in ("123", "132", "213", "231", "312", "321")]
        answers = [" ".join(w for pair in zip(a, b, strict=True) for w in pair) for a in houses[:6] for b in houses[6:]]
        assert [answer for answer in answers if fits_clues(row["prompt"], answer)] == [row["answer"]]
    clues = "a1 in 1 ; a2 left a3 ; b1 not 1 ; b2 before b1 ; b3 next b2 ;"
    valid = [a for a in answers if fits_clues(clues, a)]
    assert valid == ["a1 b2 a2 b3 a3 b1", "a1 b3 a2 b2 a3 b1"]
    assert not fits_clues("a1 above a2 ;", valid[0])
