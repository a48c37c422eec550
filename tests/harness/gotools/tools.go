//go:build tools

// Package gotools pins the versions of the programs the test cluster is built from.
// k8s.io/kubernetes cannot be installed with `go install pkg@version` (its go.mod has
// replace directives), so it is required here as a module, with its staging modules.
package gotools

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
