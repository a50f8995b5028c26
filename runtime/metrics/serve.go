package metrics

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ContentType is the format's, as the specification has it.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Collect gives the containers of one page. It returns when ctx ends at the latest,
// with those that have answered.
type Collect func(ctx context.Context) []Container

// patience is how long a page may take where the scraper does not say.
const patience = 8 * time.Second

// Listen listens at addr: HOST:PORT, a PORT alone (of this machine alone: 127.0.0.1),
// or a Unix socket by its absolute path, with unix: before it or not. A socket is for
// its owner alone (mode 0600); one that nobody serves any more is replaced.
func Listen(addr string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if isUnix || strings.HasPrefix(addr, "/") {
		return listenUnix(path)
	}
	if _, err := strconv.ParseUint(addr, 10, 16); err == nil {
		addr = net.JoinHostPort("127.0.0.1", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	if i, err := os.Lstat(path); err == nil && i.Mode()&fs.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("metrics: listen unix %s: %w", path, unix.EADDRINUSE)
		} else if errors.Is(err, unix.ECONNREFUSED) {
			os.Remove(path)
		}
	}
	old := unix.Umask(0o177) // before anybody could connect
	defer unix.Umask(old)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

// Serve answers GET /metrics on l until ctx ends, and closes l.
func Serve(ctx context.Context, l net.Listener, collect Collect, n Names) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), scrapePatience(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds")))
		defer cancel()
		list := collect(ctx)
		w.Header().Set("Content-Type", ContentType)
		Write(w, list, n) // fails if the scraper has gone
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "bulkhead: the figures are at /metrics") })
	s := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// scrapePatience leaves a scraper that gives up after header seconds a tenth of them
// to read the page.
func scrapePatience(header string) time.Duration {
	s, err := strconv.ParseFloat(header, 64)
	if err != nil || !(s > 0) || s > patience.Seconds() {
		return patience
	}
	return time.Duration(s * 0.9 * float64(time.Second))
}
