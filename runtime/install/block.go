package install

import (
	"errors"
	"strings"
)

// What we write into TOML stands between two comments. The first says how it came there,
// so that taking it away leaves the file as it was to the byte.
const (
	blockNew  = "# >>> bulkhead install: a new file; bulkhead uninstall removes it, or what stands down to <<<\n"
	blockLine = "# >>> bulkhead install: bulkhead uninstall removes what stands down to <<<\n"
	blockCut  = "# >>> bulkhead install, after a line without an end: bulkhead uninstall removes what stands down to <<<\n"
	blockEnd  = "# <<< bulkhead install\n"
)

// block is where ours stands in a text: [at, end), with its first comment and its last.
type block struct {
	at, end int
	mark    string
}

// findBlock is the block of text, nil if it has none.
func findBlock(text string) (*block, error) {
	var found *block
	at, open := 0, false
	for line := range strings.Lines(text) {
		switch line {
		case blockNew, blockLine, blockCut:
			if found != nil {
				return nil, errors.New("it has two parts marked as bulkhead install's (# >>>)")
			}
			found, open = &block{at: at, mark: line}, true
		case blockEnd, strings.TrimSuffix(blockEnd, "\n"):
			if !open {
				return nil, errors.New("an end of bulkhead install's part (# <<<) stands there without its begin")
			}
			found.end, open = at+len(line), false
		}
		at += len(line)
	}
	if open {
		return nil, errors.New("the part marked as bulkhead install's (# >>>) has no end (# <<<)")
	}
	return found, nil
}

// apart takes a text apart: our block, nil if it has none, and the rest, with what is in that.
func apart(c content) (b *block, rest content, d document, err error) {
	if b, err = findBlock(c.text); err != nil {
		return nil, c, nil, err
	}
	rest = b.without(c)
	d, err = skim(rest.text)
	return b, rest, d, err
}

// without is c less our block.
func (b *block) without(c content) content {
	if b == nil {
		return c
	}
	at := b.at
	for range map[string]int{blockNew: 0, blockLine: 1, blockCut: 2}[b.mark] { // ends of lines that we put before it
		if at > 0 && c.text[at-1] == '\n' {
			at--
		}
	}
	text := c.text[:at] + c.text[b.end:]
	if b.mark == blockNew && text == "" {
		return content{}
	}
	return content{true, text}
}

// put is c with body between our comments, at the end or where they stand already; begin
// goes before body where the file is new.
func (b *block) put(c content, begin, body string) content {
	switch {
	case b != nil:
		if b.mark == blockNew {
			body = begin + body
		}
		return content{true, c.text[:b.at] + b.mark + body + blockEnd + c.text[b.end:]}
	case !c.there:
		return content{true, blockNew + begin + body + blockEnd}
	case c.text != "" && !strings.HasSuffix(c.text, "\n"):
		return content{true, c.text + "\n\n" + blockCut + body + blockEnd}
	}
	return content{true, c.text + "\n" + blockLine + body + blockEnd}
}

// has says whether the block, of c, has a table path.
func (b *block) has(c content, path []string) bool {
	return b != nil && strings.Contains(c.text[b.at:b.end], "["+tableName(path)+"]")
}
