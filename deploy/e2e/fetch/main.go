// Command fetch prints a page, or with -n how often, one after another: a client that resolves
// names without the C library, which busybox's static wget ends at.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	n := flag.Int("n", 1, "how often; 0: for ever, with a pause between")
	flag.Parse()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	code := 0
	for i := 0; i < *n || *n == 0; i++ {
		if err := fetch(client, flag.Arg(0)); err != nil {
			fmt.Println("failed:", err)
			code = 1
		}
		if *n == 0 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	os.Exit(code)
}

func fetch(client *http.Client, url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
