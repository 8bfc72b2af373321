"""What stands on a page of the API reference, in a list at its head: each name with the first sentence about it."""

from collections.abc import Iterator

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

FEWEST = 2


def entries_of(document: nodes.document) -> Iterator[addnodes.desc]:
    """What a page describes by itself, not as a part of something else."""
    for entry in document.findall(addnodes.desc):
        is_part = any(isinstance(parent, addnodes.desc) for parent in _above(entry))
        if entry["domain"] == "py" and not is_part:
            yield entry


def _above(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def line_about(entry: addnodes.desc) -> nodes.list_item:
    """The name of an entry, which leads to it, and the first paragraph about it."""
    signature, content = entry[0], entry[-1]
    assert isinstance(signature, addnodes.desc_signature)
    name = signature["fullname"].rpartition(".")[2]
    link = nodes.reference("", "", nodes.literal("", name), internal=True, refid=signature["ids"][0])
    about = next((child.deepcopy().children for child in content.children if isinstance(child, nodes.paragraph)), [])
    return nodes.list_item("", nodes.paragraph("", "", link, nodes.Text(": "), *about))


def list_contents(app: Sphinx, document: nodes.document) -> None:
    """Put the list behind the first words of a page, if it describes more than one thing."""
    entries = list(entries_of(document))
    if not app.env.docname.startswith("reference/") or len(entries) < FEWEST:
        return
    contents = nodes.bullet_list("", *map(line_about, entries), classes=["contents-of-page"])
    [page] = [child for child in document.children if isinstance(child, nodes.section)]
    words = (nodes.title, nodes.paragraph, nodes.target, nodes.comment)
    place = next(place for place, child in enumerate(page.children) if not isinstance(child, words))
    page.insert(place, contents)


def setup(app: Sphinx) -> dict[str, bool]:
    """List the contents of every page of the reference that was read."""
    app.connect("doctree-read", list_contents)
    return {"parallel_read_safe": True}
