"""Listings: what was there all the time is met once, whatever comes and goes meanwhile, and whoever goes on with them."""

import random
import stat

from unios.core.files.inode import ROOT, Owner
from unios.core.files.tree import Tree
from unios.services.files.listings import Listings

ME = Owner(0, 0)


def tree_with(count: int) -> Tree:
    tree = Tree()
    tree.state.apply(tree.found(ME, 0o777, 1).changes)
    for at in range(count):
        tree.state.apply(tree.make(ROOT, b"%03d" % at, stat.S_IFREG | 0o644, ME, 1).changes)
    return tree


def some(listings: Listings, number: int, tree: Tree, after: int, count: int) -> tuple[list[bytes], int]:
    """Read so many names; return them, and where one goes on."""
    names = []
    for name, _ino, cookie in listings.read(number, tree.state, ROOT, after):
        if len(names) == count:
            break
        names.append(name)
        after = cookie
    return names, after


def test_dots_come_first_and_everything_once_however_it_is_cut() -> None:
    tree = tree_with(50)
    tree.state.apply(tree.link(tree.lookup(ROOT, b"007").ino, ROOT, b"again", 2).changes)
    for step in (1, 2, 7, 100):
        listings, found, after = Listings(), list[bytes](), 0
        number = listings.open()
        while names := (part := some(listings, number, tree, after, step))[0]:
            found, after = found + names, part[1]
        assert found[:2] == [b".", b".."]
        assert sorted(found[2:]) == sorted([*(b"%03d" % at for at in range(50)), b"again"]), step


def test_what_stays_is_met_once_while_names_go_and_come_and_are_replaced_and_successors_go_on() -> None:
    for seed in range(50):
        chance, tree = random.Random(seed), tree_with(60)
        stays = {b"%03d" % at for at in range(0, 60, 2)}
        listings, found, after = Listings(), list[bytes](), 0
        number = listings.open()
        while names := (part := some(listings, number, tree, after, 5))[0]:
            found, after = found + names, part[1]
            if chance.random() < 0.3:
                listings = Listings()  # of a successor, who has heard of no such listing
            for _ in range(3):
                name = b"%03d" % chance.randrange(1, 60, 2)
                if name in tree.state.entries(ROOT):
                    tree.state.apply(tree.unlink(ROOT, name, 3).changes)
                tree.state.apply(tree.make(ROOT, b"new%d" % tree.state.next_ino, stat.S_IFREG | 0o644, ME, 3).changes)
        assert stays <= set(found) and len([name for name in found if name in stays]) == len(stays), seed


def test_a_name_that_is_given_to_another_file_meanwhile_is_met() -> None:
    tree, listings = tree_with(20), Listings()
    number = listings.open()
    first, after = some(listings, number, tree, 0, 5)
    tree.state.apply(tree.make(ROOT, b"tmp", stat.S_IFREG | 0o644, ME, 2).changes)
    tree.state.apply(tree.rename(ROOT, b"tmp", ROOT, b"015", 3).changes)
    rest, _after = some(listings, number, tree, after, 100)
    assert b"015" in first + rest


def test_the_beginning_is_looked_at_anew() -> None:
    tree, listings = tree_with(1), Listings()
    number = listings.open()
    some(listings, number, tree, 0, 10)
    tree.state.apply(tree.make(ROOT, b"later", stat.S_IFREG | 0o644, ME, 2).changes)
    assert b"later" in some(listings, number, tree, 0, 10)[0]
    listings.close(number)
    assert not listings._open and listings.open() != number
