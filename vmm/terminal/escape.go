package terminal

import (
	"fmt"
	"io"
)

const ctrlA = 1

// escape takes Ctrl-A and the key after it out of what is typed.
type escape struct {
	from  io.Reader
	quit  func()
	tell  io.Writer
	armed bool // Ctrl-A was the last key
}

// Read hands on what is the guest's. It may return no bytes and no error.
func (e *escape) Read(b []byte) (int, error) {
	n, err := e.from.Read(b)
	kept := 0
	for _, key := range b[:n] {
		switch {
		case !e.armed && key == ctrlA:
			e.armed = true
			continue
		case e.armed:
			e.armed = false
			switch key {
			case 'x':
				e.quit()
				continue
			case 'a', ctrlA:
				key = ctrlA
			default:
				fmt.Fprint(e.tell, "\r\nCtrl-A x ends the machine; Ctrl-A a sends Ctrl-A.\r\n")
				continue
			}
		}
		b[kept] = key
		kept++
	}
	return kept, err
}
