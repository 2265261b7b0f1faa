// Package migrating holds the code of docs/migrating.md to what is compiled and run in
// its subpackages.
package migrating
