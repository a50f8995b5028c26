package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// account is where a pod finds who it is to the API server (kubernetes.io, "Accessing the
// Kubernetes API from a Pod").
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// node is the API server's object of the node that this runs on.
type node struct {
	name, url, token string
	client           *http.Client
}

func thisNode() (*node, error) {
	host, port, name := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"), os.Getenv("NODE_NAME")
	if host == "" || name == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST or NODE_NAME is not set: this runs in a pod as deploy/installer/daemonset.yaml has it")
	}
	token, err := os.ReadFile(filepath.Join(account, "token"))
	if err != nil {
		return nil, fmt.Errorf("the pod's service account: %w", err)
	}
	authority, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("the pod's service account: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	return &node{
		name: name, url: "https://" + net.JoinHostPort(host, port) + "/api/v1/nodes/" + name, token: strings.TrimSpace(string(token)),
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}, nil
}

// label sets labels, and removes those that are nil (RFC 7386).
func (n *node) label(ctx context.Context, labels map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return err
	}
	ask, err := http.NewRequestWithContext(ctx, http.MethodPatch, n.url, bytes.NewReader(patch))
	if err != nil {
		return err
	}
	ask.Header.Set("Content-Type", "application/merge-patch+json")
	ask.Header.Set("Authorization", "Bearer "+n.token)
	answer, err := n.client.Do(ask)
	if err != nil {
		return fmt.Errorf("label node %s: %w", n.name, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("label node %s: %s: %s", n.name, answer.Status, text)
	}
	return nil
}
