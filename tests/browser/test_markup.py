"""The rendering of texts: each test calls the page's module for one text."""

from __future__ import annotations

from typing import Any

import pytest

from support.browser import HOSTILE
from support.server import TIMEOUT_UNIT_S

PRELUDE = """
const { answerOf, fileOf, isEmojiOnly, mentions, nodesOf, plainOf, sizeOf } =
  await import("/static/text/markup.js");
const { quoteOf } = await import("/static/client.js");
const people = { self: "Ann", names: ["Bob", "Ann Lee", "Zoë", "C3-PO"] };
const shown = (text) => {
  const element = document.createElement("div");
  element.append(...nodesOf(text, people));
  return element;
};
const html = (text) => shown(text).innerHTML.replaceAll(' dir="auto"', "");
const FILE = "/files/" + "a2".repeat(16);
"""

OUTSIDE = 'target="_blank" rel="noopener noreferrer nofollow ugc"'


@pytest.fixture
def ask(blank: Any) -> Any:
    """Run the body of a function beside the module, with `argument` as `text`, and return its
    result."""

    def ask(body: str, argument: Any = None) -> Any:
        return blank.evaluate(f"async (text) => {{ {PRELUDE} {body} }}", argument)

    return ask


@pytest.fixture
def html(ask: Any) -> Any:
    """Return the HTML of a text, without the `dir` of its blocks."""
    return lambda text: ask("return html(text)", text)


def link(address: str, shown: str | None = None) -> str:
    return f'<a dir="ltr" href="{address}" {OUTSIDE}>{shown or address}</a>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo\n\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("a  b\n  c", "<p>a  b\n  c</p>"),
        ("*a* _b_ **c** ~~d~~", "<p><em>a</em> <em>b</em> <strong>c</strong> <s>d</s></p>"),
        ("**a *b* c**, (*d*)", "<p><strong>a <em>b</em> c</strong>, (<em>d</em>)</p>"),
        ("*a* b *c", "<p><em>a</em> b *c</p>"),
        ("*a *b*", "<p>*a <em>b</em></p>"),
        ("*a **b* c**", "<p><em>a **b</em> c**</p>"),
        ("🎉*a*🎉 “*b*”", "<p>🎉<em>a</em>🎉 “<em>b</em>”</p>"),
        ("这是*重点*的", "<p>这是<em>重点</em>的</p>"),
        ("これは**大事**です", "<p>これは<strong>大事</strong>です</p>"),
        ("นี่*สำคัญ*มาก", "<p>นี่<em>สำคัญ</em>มาก</p>"),
    ],
)
def test_lines_and_emphasis(html: Any, text: str, expected: str) -> None:
    """Line breaks stay, empty lines separate paragraphs, and emphasis can contain other
    emphasis."""
    assert html(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a_b_c",
        "*a*b _c_d",
        "2*3*4",
        "文件_最终_版.doc",
        "这*不是",
        "2 * 3 * 4",
        "__init__",
        "*a\nb*",
        "a * * b",
        "**",
        "****",
        "f(a)*(b)*c",
        r"¯\_(ツ)_/¯",
        "(*_*)",
        "*_*",
        "-_-",
        "^_^",
        "***a***",
        "~a~",
        "snake_case_",
        "*",
        "`",
        "> ",
    ],
)
def test_unpaired_marks_stay_text(ask: Any, text: str) -> None:
    """Marks inside words, across lines, in emoticons and alone stay as written."""
    marks, content = ask(
        'const it = shown(text); return [it.querySelectorAll("em, strong, s, code").length, '
        "it.textContent]",
        text,
    )
    assert marks == 0
    assert content.strip() == text.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a `*b* <i>` c", "<p>a <code>*b* &lt;i&gt;</code> c</p>"),
        ("``a`` ```b```", "<p><code>a</code> <code>b</code></p>"),
        ("`a", "<p>`a</p>"),
        ("```\na\n\n  *b*\n```\nc", "<pre><code>a\n\n  *b*</code></pre><p>c</p>"),
        ("a\n```js\nb", "<p>a</p><pre><code>b</code></pre>"),
        ("```a b\nc```", "<pre><code>a b\nc</code></pre>"),
        ("```a", "<pre><code>a</code></pre>"),
        ("```\n```", "<p>```\n```</p>"),
        ("> ```\n> a\nb", "<blockquote><pre><code>a</code></pre></blockquote><p>b</p>"),
    ],
)
def test_code_is_shown_as_written(html: Any, text: str, expected: str) -> None:
    """Marks in code stay text, and an unclosed block continues to the end."""
    assert html(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("> a\n> b\nc", "<blockquote><p>a\nb</p></blockquote><p>c</p>"),
        ("> > a\n> b", "<blockquote><blockquote><p>a</p></blockquote><p>b</p></blockquote>"),
        (">_< and >a", "<p>&gt;_&lt; and &gt;a</p>"),
        ("a\n- b\n- *c*", "<p>a</p><ul><li>b</li><li><em>c</em></li></ul>"),
        ("* a\n  - b\n* c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("3. a\n7. b", '<ol><li value="3">a</li><li value="7">b</li></ol>'),
        ("1. a\n- b", '<ol><li value="1">a</li></ol><ul><li>b</li></ul>'),
        ("-a\n1.b\n1) c\n-", "<p>-a\n1.b\n1) c\n-</p>"),
    ],
)
def test_quotes_and_lists_can_be_nested(html: Any, text: str, expected: str) -> None:
    """Quotes and lists can contain each other, and numbers stay as written."""
    assert html(text) == expected


@pytest.mark.parametrize(
    ("text", "address", "rest"),
    [
        ("see https://a.example/b?c=d#e.", "https://a.example/b?c=d#e", "see ."),
        ("(https://a.example/b_(c))", "https://a.example/b_(c)", "()"),
        ("[https://a.example/]!", "https://a.example/", "[]!"),
        ("<https://a.example/b.>", "https://a.example/b.", ""),
        ("https://a.example/*b*_c_…", "https://a.example/*b*_c", "_…"),
        ("看https://a.example/，好", "https://a.example/", "看，好"),
        ("http://[::1]:80/", "http://[::1]/", ""),
    ],
)
def test_addresses_become_links(ask: Any, text: str, address: str, rest: str) -> None:
    """An address ends before the punctuation of its sentence, and its link opens a new tab without
    a referrer."""
    link, shown = ask(
        """const element = shown(text); const [link] = element.querySelectorAll("a");
        link.remove();
        return [{ text: link.textContent, ...Object.fromEntries(
          link.getAttributeNames().map((name) => [name, link.getAttribute(name)])) },
          element.textContent]""",
        text,
    )
    assert link == {
        "text": address,
        "dir": "ltr",
        "href": address,
        "target": "_blank",
        "rel": "noopener noreferrer nofollow ugc",
    }
    assert shown == rest


@pytest.mark.parametrize(
    ("text", "shown", "host"),
    [
        ("https://аррӏе.example/", "https://xn--80ak6aa92e.example/", "xn--80ak6aa92e.example"),
        ("https://GOOD.example/A", "https://GOOD.example/A", "good.example"),
        ("https://%65vil.example/", "https://evil.example/", "evil.example"),
        (
            "https://evil.example\\@good.example",
            "https://evil.example\\@good.example",
            "evil.example",
        ),
        ("http://2130706433/", "http://127.0.0.1/", "127.0.0.1"),
        ("https://a.example/\u202egpj.b", "https://a.example/", "a.example"),
    ],
)
def test_link_shows_its_address(ask: Any, text: str, shown: str, host: str) -> None:
    """The text of a link is its address, and a misleading host is shown as it is resolved."""
    assert ask(
        'const [link] = shown(text).querySelectorAll("a"); return [link.textContent, link.host]',
        text,
    ) == [shown, host]


@pytest.mark.parametrize(
    "text",
    [
        "https://good.example@evil.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://",
        "http://[",
        "ftp://a.example",
        "//a.example",
        "www.a.example",
        "[a](javascript:alert(1))",
        "file:///etc/passwd",
    ],
)
def test_only_web_addresses_become_links(html: Any, text: str) -> None:
    """Other schemes, addresses without a host, and hosts behind a user's name stay text."""
    assert html(text) == f"<p>{text}</p>"


@pytest.mark.parametrize(
    ("text", "rooms"),
    [
        ("#a and (#b-c.d_1), #e.", ["#a", "#b-c.d_1", "#e"]),
        ("#ö, #Ö", ["#%C3%B6", "#%C3%B6"]),
        ("a#b #Big #1 ##c /#d &#e; #x#y #fooBar #" + "a" * 65, []),
    ],
)
def test_room_names_become_links(ask: Any, text: str, rooms: list[str]) -> None:
    """A room's name after a word boundary links to the room; numbers and other names do not."""
    assert (
        ask(
            'return [...shown(text).querySelectorAll("a")].map((a) => a.getAttribute("href"))', text
        )
        == rooms
    )


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("@Bob, @ann and (@ZOE\u0308)!", ["@Bob", "@ann*", "@ZOE\u0308"]),
        ("@Ann Lee and @Ann Leeds", ["@Ann Lee", "@Ann*"]),
        ("@c3-po's *@Bob*_@Bob_", ["@c3-po", "@Bob", "@Bob"]),
        ("a@Bob @Bobby @@Bob `@Bob` @ Bob @Nobody", []),
    ],
)
def test_mentions_are_marked(ask: Any, text: str, called: list[str]) -> None:
    """The longest matching name is a mention, in any case, and the reader's own name stands out."""
    assert (
        ask(
            """return [...shown(text).querySelectorAll(".mention")]
          .map((each) => each.textContent + (each.matches(".mention--self") ? "*" : ""))""",
            text,
        )
        == called
    )


def test_names_are_fetched_for_possible_mentions_only(ask: Any) -> None:
    """The names are not fetched for a text that cannot mention a user."""
    assert (
        ask(
            """let asked = 0;
        const context = { self: "Ann", get names() { asked += 1; return ["Bob"]; } };
        nodesOf("a@b.example", context); nodesOf("@Bob @Bob", context);
        return asked"""
        )
        == 1
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hi @Ann!", True),
        ("@ANN", True),
        ("> @Ann #42\n> hello\n\nyes", True),
        ("> @Bob #42\n> @Ann says\n\nyes", False),
        ("`@Ann`", False),
        ("```\n@Ann\n```", False),
        ("- *@Ann*", True),
        ("@Anna, ann", False),
        ("@Ann Lee", False),
    ],
)
def test_only_the_own_text_mentions_users(ask: Any, text: str, expected: bool) -> None:
    """The author of a quoted message is mentioned; names in code, in quotes and in longer names are
    not."""
    assert ask("return mentions(text, people)", text) is expected


def test_reader_without_a_name_is_not_mentioned(ask: Any) -> None:
    """Before the reader has a name, no text mentions them."""
    assert ask('return mentions("@ and @Bob", { self: "", names: [] })') is False


def test_reply_links_to_its_message(ask: Any) -> None:
    """The first line of a reply's quote links to the quoted message."""
    assert ask(
        """const it = shown(text);
        const [button] = it.querySelectorAll("blockquote:first-child > cite:first-child > button");
        return [button.type, button.dataset.reveal, button.textContent, button.title,
          it.querySelector("blockquote > p").textContent, it.lastChild.textContent]""",
        "> @Bob #1 #42\n> hello\n\nyes",
    ) == ["button", "42", "Bob #1", "Show the original message", "hello", "yes"]


@pytest.mark.parametrize("text", ["@Bob #42", "> hello\n> @Bob #42", "> @Bob #x", "> @ #42"])
def test_first_line_of_a_quote_is_text_outside_of_a_reply(ask: Any, text: str) -> None:
    """If a line like the first line of a quote does not start a reply, it stays text."""
    assert ask('return shown(text).querySelectorAll("button").length', text) == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("4000&height=1000", [352, 88]),
        ("100&height=50", [100, 50]),
        ("10&height=99999", [24, 288]),
        ("999999999999&height=1", [352, 24]),
    ],
)
def test_images_have_their_size_before_they_load(ask: Any, size: str, expected: list[int]) -> None:
    """An image has its scaled size from the start, and is fetched when it is near the screen."""
    assert ask(
        """const link = `${FILE}/c%20at.png?size=5&width=${text}`;
        const [image] = shown(link).querySelectorAll("a > img");
        const { width, height, alt, loading, decoding } = image;
        const { href, target, rel } = image.parentElement;
        return [[width, height], alt, loading, decoding, image.src === href, target, rel]""",
        size,
    ) == [expected, "c at.png", "lazy", "async", True, "_blank", "noopener noreferrer nofollow ugc"]


def test_image_that_fails_to_load_becomes_a_card(ask: Any) -> None:
    """If an image fails to load, its name and size are shown instead."""
    assert ask(
        """const element = shown(`${FILE}/cat.png?size=5000&width=40&height=30`);
        document.body.append(element);
        const [link] = element.querySelectorAll("a");
        const before = link.className;
        const image = link.querySelector("img");
        image.loading = "eager";
        await new Promise((resolve) => image.addEventListener("error", resolve));
        element.remove();
        return [before, link.className, link.innerText, link.dataset.size, link.children.length]"""
    ) == ["file file--image", "file", "cat.png", "5 kB", 1]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("${FILE}/a%2Fb%20c.pdf?size=2500000", ["a/b c.pdf", "2.5 MB"]),
        ("${location.origin}${FILE}/a.pdf?size=1", ["a.pdf", "1 byte"]),
        ("${FILE}/a%E2%80%AEfdp.exe", ["afdp.exe", None]),
        ("${FILE}/%zz?size=-1&width=9&height=9e9", ["%zz", None]),
    ],
)
def test_files_become_cards(ask: Any, link: str, expected: list[str | None]) -> None:
    """A file is shown by name and size, and its link cannot imitate another kind of file."""
    assert ask(
        f"""const [card] = shown(`look: {link}!`).querySelectorAll("a.file");
        return [[card.textContent, card.dataset.size ?? null], card.download, card.host]"""
    ) == [expected, expected[0], ask("return location.host")]


@pytest.mark.parametrize(
    "text",
    ["/files/short/a.png?size=1", "x/files/${id}/a.png", "/files/${id}/", "/files/${id}/a/b"],
)
def test_other_paths_are_not_files(ask: Any, text: str) -> None:
    """A path that only resembles a file's link stays text."""
    text = text.replace("${id}", "a2" * 16)
    assert ask(
        'return [shown(text).querySelectorAll("a").length, shown(text).textContent]', text
    ) == [0, text]


def test_files_of_other_servers_are_links(html: Any) -> None:
    """Another server's address is a link and never an image, which would disclose the reader to
    that server."""
    address = f"https://a.example/files/{'a2' * 16}/cat.png?size=1&width=9&height=9"
    assert html(address) == f"<p>{link(address).replace('&', '&amp;')}</p>"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_no_element(ask: Any, text: str) -> None:
    """No text creates an element that the page does not create itself."""
    allowed = "p, em, strong, s, code, pre, ul, ol, li, blockquote, bdi"
    for around in (
        text,
        f"> {text}",
        f"- {text}",
        f"`{text}`",
        f"*{text}*",
        f"https://a.example/{text}",
    ):
        assert (
            ask(
                f"""return [...shown(text).querySelectorAll("*")].filter((each) =>
              !each.matches('{allowed}, a[href^="https://a.example/"]')
              || each.getAttributeNames().some((name) => name.startsWith("on"))).length""",
                around,
            )
            == 0
        )
    assert ask("return shown(text).textContent", text) == text


LONG = [
    *(
        "*",
        "**",
        "* ",
        " *a",
        "*.",
        "_*",
        "_*~~",
        "*a_",
        "~~",
        "`",
        "``a`",
        "` ",
        "```\n",
        "```a\n",
    ),
    *("> ", ">", "> - ", "> \n", "> a\n\n", "> @a #1\n", "a\n> ", "a\n\n", "\n", "  ", "-"),
    *("- ", "1. ", "- a\n", "  - a\n", "[", "(", "<", "@", " @", " @a", "@Ann ", "#", " #a", "#1"),
    *("https://a", "https://a) ", "<https://", "https://[", " https://a(", "/files/"),
    *(f" /files/{'a' * 32}/", "👍", "👍 ", "😀\u200d", "1\ufe0f\u20e3", "\u0301", "\u202e"),
]


@pytest.mark.parametrize("piece", LONG)
def test_rendering_time_is_linear(ask: Any, blank: Any, piece: str) -> None:
    """A text of sixteen times the maximum length, of one character, is rendered in a moment."""
    devtools = blank.context.new_cdp_session(blank)
    devtools.send("Performance.enable")
    begun_s = thread_time_s(devtools)
    ask(
        """const long = text.repeat(Math.ceil(64_000 / text.length)) + "x";
        shown(long);
        mentions(`${long}@Ann`, people);
        plainOf(long);
        isEmojiOnly(long);
        quoteOf({ username: "a", offset: 1, text: long });""",
        piece,
    )
    taken_s = thread_time_s(devtools) - begun_s
    devtools.detach()
    # In quadratic time, these texts would take some ten seconds instead of a fifth of one.
    assert taken_s < 2.5 * TIMEOUT_UNIT_S


def thread_time_s(devtools: Any) -> float:
    """Return the processor time of the page's thread, which excludes the time of other
    processes."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "ThreadTime")


@pytest.mark.parametrize(
    "text",
    ["👍", "👍🏽 ❤️", "👩🏽‍❤️‍💋‍👨🏾🏳️‍🌈", "🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "😀\n😀", "😀" * 8, "🕵🏽‍♂️", "☝🏽"],
)
def test_few_emoji_alone_are_large(ask: Any, text: str) -> None:
    """Up to eight emoji without other text count as large, including sequences and flags."""
    assert ask("return isEmojiOnly(text)", text)


@pytest.mark.parametrize("text", ["", "1", "#", "©", "❤", "😀!", "a😀", "😀" * 9, "\u200d", "😀 1"])
def test_other_texts_are_not_large(ask: Any, text: str) -> None:
    """Digits, signs that are text by default, letters and long series are ordinary text."""
    assert not ask("return isEmojiOnly(text)", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*a*\n\n- b\n- `c` d\n\n```\ne\n```", "a b c d e"),
        ("> @Bob #1\n> what\n\nthat", "that"),
        ("> only", "only"),
        (f"see /files/{'a2' * 16}/a%20b.png?size=1&width=2&height=3!", "see a b.png!"),
        ("https://a.example/?b @Bob #c", "https://a.example/?b @Bob #c"),
    ],
)
def test_plain_text_is_one_line(ask: Any, text: str, expected: str) -> None:
    """In a notification a text is one line without marks, and its files are shown by name."""
    assert ask("return plainOf(text)", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello\n\n*you*", "> hello\n> *you*"),
        ("> @Ann #2\n> what\n\nthat", "> that"),
        ("1\n2\n3\n4", "> 1\n> 2\n> 3…"),
        ("x" * 999, f"> {'x' * 240}…"),
        (f"/files/{'a2' * 16}/a%20b.png?size=1 is it", "> a b.png is it"),
    ],
)
def test_reply_starts_with_a_quote(ask: Any, text: str, expected: str) -> None:
    """A reply quotes the beginning of a message, without the message's own quote."""
    entry = {"username": "Bob", "offset": 7, "text": text}
    quote = ask("return quoteOf(text)", entry)
    assert quote == f"> @Bob #7\n{expected}\n\n"
    assert ask('return shown(text).querySelector("button").dataset.reveal', f"{quote}yes") == "7"
    taken = ask("return answerOf(text)", f"{quote}yes")
    assert (taken["quote"], taken["name"], taken["text"]) == (quote, "Bob", "yes")


@pytest.mark.parametrize(
    ("text", "quote", "quoted"),
    [
        ("> @Bob #1\n> a\n>\n> b\n\nyes\n> no", "> @Bob #1\n> a\n>\n> b\n\n", "a\n\nb"),
        ("> @Bob #1\n> > a\nyes", "> @Bob #1\n> > a\n", "> a"),
        ("> @Bob #1\n> a\n\n", "> @Bob #1\n> a\n\n", "a"),
        ("> Bob #1\n> a\n\nyes", "", ""),
        ("yes\n> @Bob #1\n> a\n", "", ""),
        ("> @Bob #x\n> a\n", "", ""),
    ],
)
def test_reply_is_split_into_quote_and_text(ask: Any, text: str, quote: str, quoted: str) -> None:
    """A reply splits into its quote and the rest, which together are the whole text; other texts
    are not split."""
    taken = ask("return answerOf(text)", text)
    assert (taken["quote"], taken["quoted"]) == (quote, quoted)
    assert taken["quote"] + taken["text"] == text


@pytest.mark.parametrize(
    ("text", "selector"),
    [("> @Bob #1\n> שלום\n> a", "blockquote"), ("- שלום", "ul"), ("שלום", "p")],
)
def test_block_direction_follows_its_first_letters(ask: Any, text: str, selector: str) -> None:
    """A block runs from right to left if its first letters do, and so do its bar or bullets."""
    assert (
        ask(
            f"""const element = shown(text);
            document.body.append(element);
            const {{ direction }} = getComputedStyle(element.querySelector("{selector}"));
            element.remove();
            return direction""",
            text,
        )
        == "rtl"
    )
