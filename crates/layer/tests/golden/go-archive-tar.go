// Writes go-archive-tar.tar, what Go's archive/tar makes of the entries in src/tar/write/tests.rs:
// `go run go-archive-tar.go > go-archive-tar.tar`, with Go 1.21 or later.
package main

import (
	"archive/tar"
	"os"
	"strings"
	"time"
)

func main() {
	w := tar.NewWriter(os.Stdout)
	put := func(h tar.Header) {
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
	}
	at := func(s, n int64) time.Time { return time.Unix(s, n) }
	x := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m["SCHILY.xattr."+kv[i]] = kv[i+1]
		}
		return m
	}
	plain := at(1700000000, 0)
	put(tar.Header{Typeflag: tar.TypeDir, Name: "dir/", Mode: 01777, Uid: 7, Gid: 8, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/file", Mode: 04755, Uid: 2097151, Gid: 2097151, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/ids", Mode: 0644, Uid: 4000000000, Gid: 2097152, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/nanos", Mode: 0644, ModTime: at(1700000000, 120000000)})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/before", Mode: 0644, ModTime: at(-2, 250000000)})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/long-ago", Mode: 0644, ModTime: at(-62000000000, 0)})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/far", Mode: 0644, ModTime: at(1<<33, 0)})
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "../target", Mode: 0777, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeSymlink, Name: "long-link", Linkname: strings.Repeat("t/", 60), Mode: 0777, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "dir/file", Mode: 0644, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0600, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeChar, Name: "char", Mode: 0600, Devmajor: 4095, Devminor: 1048575, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeBlock, Name: "block", Mode: 0600, Devmajor: 8, Devminor: 1, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("d", 60) + "/" + strings.Repeat("f", 60), Mode: 0644, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat("d", 60) + "/" + strings.Repeat("e", 60) + "/", Mode: 0755, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("d", 60) + "/" + strings.Repeat("n", 60), Mode: 0644, ModTime: at(1, 1)})
	put(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 255), Mode: 0644, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("d", 99) + "/" + strings.Repeat("s", 101), Mode: 0644, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "na\xc3\xafve", Mode: 0644, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeDir, Name: "raw-\xff\xfe/", Mode: 0755, ModTime: plain})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "attrs", Mode: 0644, ModTime: plain,
		PAXRecords: x("user.b", "2", "user.a", "", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00")})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/.wh.gone"})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "dir/.wh..wh..opq"})
	put(tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0600, Size: 1 << 33, ModTime: plain})
}
