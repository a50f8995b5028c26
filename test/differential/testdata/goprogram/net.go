package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tcpEcho runs many connections at once over both families.
func tcpEcho() {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		l, err := net.Listen("tcp", address)
		check(err)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					io.Copy(c, c)
					c.Close()
				}()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		var wait sync.WaitGroup
		var sums [20]string
		for i := range sums {
			wait.Go(func() {
				c, err := net.Dial("tcp", "localhost:"+port)
				if address[0] == '[' {
					c, err = net.Dial("tcp6", "[::1]:"+port)
				}
				check(err)
				go func() {
					io.Copy(c, strings.NewReader(strings.Repeat(fmt.Sprint("stream ", i), 20000)))
					c.(*net.TCPConn).CloseWrite()
				}()
				h := sha256.New()
				n, err := io.Copy(h, c)
				sums[i] = fmt.Sprintf("%d %x %v", n, h.Sum(nil)[:4], err)
				c.Close()
			})
		}
		wait.Wait()
		fmt.Println(address, sums)
		l.Close()
		_, err = net.Dial("tcp", "localhost:"+port)
		fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	}
}

// tcpDeadlines ends reads, writes, accepts and dials by time and by Close.
func tcpDeadlines() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = l.Accept()
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	l.(*net.TCPListener).SetDeadline(time.Time{})
	c, err := net.Dial("tcp", l.Addr().String())
	check(err)
	s, err := l.Accept()
	check(err)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err = nil; err == nil; {
		_, err = c.Write(make([]byte, 1<<20))
	}
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
	c.SetDeadline(time.Time{})
	go func() { time.Sleep(10 * time.Millisecond); c.Close() }()
	_, err = c.Read(make([]byte, 1))
	fmt.Println(errors.Is(err, net.ErrClosed))
	s.(*net.TCPConn).SetLinger(0)
	fmt.Println(s.Close())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	fmt.Println(err != nil)
	go func() { time.Sleep(10 * time.Millisecond); l.Close() }()
	for err = nil; err == nil; {
		_, err = l.Accept()
	}
	fmt.Println(errors.Is(err, net.ErrClosed))
}

// udpPackets sends datagrams by connection and by address.
func udpPackets() {
	for _, network := range []string{"udp4", "udp6"} {
		host := "127.0.0.1:0"
		if network == "udp6" {
			host = "[::1]:0"
		}
		server, err := net.ListenPacket(network, host)
		check(err)
		client, err := net.Dial(network, server.LocalAddr().String())
		check(err)
		for i := range 5 {
			fmt.Fprintf(client, "packet %d", i)
			b := make([]byte, 100)
			n, from, err := server.ReadFrom(b)
			check(err)
			fmt.Println(string(b[:n]), from.String() == client.LocalAddr().String())
			server.WriteTo([]byte("answer"), from)
			n, err = client.Read(b)
			fmt.Println(string(b[:n]), err)
		}
		server.Close()
		client.Write([]byte("lost"))
		_, err = client.Read(make([]byte, 1))
		fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	}
}

// httpServer answers many requests over connections that stay and that do not.
func httpServer() {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.Path, len(b))
	}))
	defer s.Close()
	for _, keep := range []bool{true, false} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: !keep}}
		var wait sync.WaitGroup
		var good sync.Map
		for i := range 50 {
			wait.Go(func() {
				r, err := client.Post(s.URL+fmt.Sprint("/", i), "text/plain", strings.NewReader(strings.Repeat("x", i*1000)))
				check(err)
				b, err := io.ReadAll(r.Body)
				check(err)
				r.Body.Close()
				good.Store(string(b), r.StatusCode)
			})
		}
		wait.Wait()
		n := 0
		good.Range(func(any, any) bool { n++; return true })
		v, ok := good.Load("POST /7 7000")
		fmt.Println(n, v, ok)
	}
}

// interfaces asks what netlink tells of the loopback device, and resolves names.
func interfaces() {
	i, err := net.InterfaceByName("lo")
	check(err)
	addrs, err := i.Addrs()
	fmt.Println(i.Index, i.Flags, addrs, err)
	byIndex, err := net.InterfaceByIndex(1)
	fmt.Println(byIndex.Name, err)
	ips, err := net.LookupHost("127.0.0.1")
	fmt.Println(ips, err)
	port, err := net.LookupPort("tcp", "http")
	fmt.Println(port, err)
	_, err = net.Listen("tcp", "192.0.2.1:0")
	fmt.Println(errors.Is(err, syscall.EADDRNOTAVAIL))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	_, err = net.Listen("tcp", l.Addr().String())
	fmt.Println(errors.Is(err, syscall.EADDRINUSE))
}
