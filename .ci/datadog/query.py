"""Parses the parts of Datadog's log search that the assets use, and tells which entries a search finds.

    source:sectigo -@evt.name:(*revo* OR *Revo*) OR service:EZCA

Terms side by side must all match, `OR` binds more weakly, `-` negates, and `*` stands for any text.
"""

import re

TOKEN = re.compile(r"\s*(\(|\)|-(?=[@a-z(])|OR\b|[^\s():]+:|[^\s():]+)")


class Search:
    def __init__(self, text):
        self.tokens, at = [], 0
        while text[at:].strip():
            match = TOKEN.match(text, at)
            if not match:
                raise ValueError(f"cannot be read from here: {text[at:]!r}")
            self.tokens.append(match.group(1))
            at = match.end()
        self.at = 0
        self.finds = self.any_of(None)
        if self.at < len(self.tokens):
            raise ValueError(f"too much: {self.tokens[self.at:]}")

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self):
        token = self.peek()
        if token is None:
            raise ValueError("the end comes too early")
        self.at += 1
        return token

    def any_of(self, key):
        choices = [self.all_of(key)]
        while self.peek() == "OR":
            self.take()
            choices.append(self.all_of(key))
        return lambda entry: any(choice(entry) for choice in choices)

    def all_of(self, key):
        terms = [self.term(key)]
        while self.peek() not in (None, ")", "OR"):
            if key is not None:
                raise ValueError("values side by side")
            terms.append(self.term(key))
        return lambda entry: all(term(entry) for term in terms)

    def term(self, key):
        token = self.take()
        if token == "-":
            inner = self.term(key)
            return lambda entry: not inner(entry)
        if token == "(":
            return self.closed(key)
        if token.endswith(":"):
            if key is not None:
                raise ValueError(f"{token} within the values of {key}")
            if self.peek() == "(":
                self.take()
                return self.closed(token[:-1])
            return self.value(token[:-1], self.take())
        if key is None:
            raise ValueError(f"{token} has no key")
        return self.value(key, token)

    def closed(self, key):
        inner = self.any_of(key)
        if self.take() != ")":
            raise ValueError("a parenthesis is not closed")
        return inner

    @staticmethod
    def value(key, pattern):
        if pattern in ("(", ")", "OR", "-"):
            raise ValueError(f"{key} has no value")
        whole = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)

        def finds(entry):
            found = attribute(entry, key)
            return found is not None and whole.fullmatch(found) is not None

        return finds


def attribute(entry, key):
    """The attribute of an entry as text; none if it is missing."""
    if not key.startswith("@"):
        value = entry.get({"source": "ddsource"}.get(key, key))
    else:
        value = entry
        for part in key[1:].split("."):
            value = value.get(part) if isinstance(value, dict) else None
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def attributes(text):
    """The attributes that a search names, without their @."""
    return set(re.findall(r"@([A-Za-z_.]+):", text))
