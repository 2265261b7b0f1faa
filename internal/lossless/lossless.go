// Package lossless finds types and values that do not survive a round trip through encoding/json, which
// drops and alters much without an error. [CheckType] checks a type, once; [CheckValue] checks a value for
// the one loss that depends on the value, which is that of strings that are not UTF-8.
//
// What both accept, and encoding/json encodes without an error, comes back equal by reflect.DeepEqual, with
// these exceptions:
//
//   - A type with a pair of methods of its own, MarshalJSON and UnmarshalJSON or MarshalText and
//     UnmarshalText, comes back as they define it. So a time.Time comes back as the same instant.
//   - A field with omitempty comes back nil if it is an empty slice or map, as its tag asks for, and one with
//     omitzero comes back zero if IsZero says so.
//   - Pointers to the same thing come back as pointers to equal things.
//
// The check errs on the side of refusing: some types are refused of which all values would come back.
package lossless

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLosses is how many losses CheckType reports, enough to see what is wrong.
const maxLosses = 10

var (
	marshalsJSON   = reflect.TypeFor[json.Marshaler]()
	unmarshalsJSON = reflect.TypeFor[json.Unmarshaler]()
	marshalsText   = reflect.TypeFor[encoding.TextMarshaler]()
	unmarshalsText = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonNumber     = reflect.TypeFor[json.Number]()
)

// CheckType returns nil if every value of t comes back from JSON. Otherwise the error has one line for each
// loss, with the path of the part of t that it concerns. After maxLosses it says how many more there are.
func CheckType(t reflect.Type) error {
	l := losses{seen: map[seenType]bool{}}
	l.value(t, t.String(), true)
	if len(l.errs) > maxLosses {
		l.errs = append(l.errs[:maxLosses], fmt.Errorf("and %d more", len(l.errs)-maxLosses))
	}
	return errors.Join(l.errs...)
}

// losses collects what a type loses in JSON.
type losses struct {
	seen map[seenType]bool // what has been checked; it ends the walk of a recursive type
	errs []error
}

// A seenType is a type, and whether its values are addressable where it was found.
type seenType struct {
	t           reflect.Type
	addressable bool
}

func (l *losses) add(path, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s: "+format, append([]any{path}, args...)...))
}

// value checks t, which is at path in the type that CheckType was called with. encoding/json calls methods
// with pointer receivers only on addressable values, which the elements of a map are not.
func (l *losses) value(t reflect.Type, path string, addressable bool) {
	if l.seen[seenType{t, addressable}] {
		return
	}
	l.seen[seenType{t, addressable}] = true
	switch {
	case t.Kind() == reflect.Interface:
		l.add(path, "an interface, of which JSON does not tell what was in it")
		return
	case t.Kind() != reflect.Pointer && l.methods(t, path, addressable):
		return
	case t == jsonNumber:
		l.add(path, "a json.Number, of which the empty one would come back as 0")
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		switch e := t.Elem(); e.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			l.add(path, "a pointer to a %v: one to nil would come back as nil", e.Kind())
		default:
			l.value(e, path, true)
		}
	case reflect.Slice:
		l.value(t.Elem(), path+"[]", true)
	case reflect.Array:
		l.value(t.Elem(), path+"[]", addressable)
	case reflect.Map:
		l.key(t.Key(), path)
		l.value(t.Elem(), path+"[]", false)
	case reflect.Struct:
		l.fields(t, path, addressable, map[string]string{}, nil)
	case reflect.Func, reflect.Chan, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		l.add(path, "of kind %v, which JSON does not have", t.Kind())
	}
}

// methods checks the methods of t that encoding/json may call. It reports whether they settle the matter: t
// is encoded and decoded by its own methods, or has been found to lose something by them.
func (l *losses) methods(t reflect.Type, path string, addressable bool) bool {
	p := reflect.PointerTo(t)
	calls := func(m reflect.Type) bool { return t.Implements(m) || addressable && p.Implements(m) }
	to, from := calls(marshalsJSON), p.Implements(unmarshalsJSON)
	toText, fromText := calls(marshalsText), p.Implements(unmarshalsText)
	switch {
	case to && from, !to && !from && toText && fromText:
		if by, ok := promoting(t); ok {
			l.add(path, "its JSON is that of the embedded %s alone", by)
		}
	case !addressable && (p.Implements(marshalsJSON) != to || p.Implements(marshalsText) != toText):
		l.add(path,
			"an element of a map, for which JSON does not call methods with pointer receivers; a pointer would do")
	case to || from || toText || fromText:
		l.add(path, "%v has no pair of methods for JSON, but %s", t, methodNames(to, from, toText, fromText))
	default:
		return false
	}
	return true
}

// methodNames names the methods that a type has, in the order of its parameters: to and from JSON, to and
// from text.
func methodNames(has ...bool) string {
	var names []string
	for i, name := range []string{"MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText"} {
		if has[i] {
			names = append(names, name)
		}
	}
	return strings.Join(names, " and ") + " alone"
}

// key checks the type of a map's keys. encoding/json writes keys of kind string as they are, even if they
// have MarshalText, but reads them by UnmarshalText if they have that.
func (l *losses) key(t reflect.Type, path string) {
	path += "'s keys"
	p := reflect.PointerTo(t)
	to, from := t.Implements(marshalsText), p.Implements(unmarshalsText)
	switch kind := t.Kind(); {
	case kind == reflect.Interface || kind == reflect.Pointer:
		l.add(path, "of kind %v, which are not the same when they come back", kind)
	case t == jsonNumber || kind == reflect.String && !from:
	case kind == reflect.String:
		l.add(path, "%v: JSON has strings as they are, and would call UnmarshalText all the same", t)
	case p.Implements(unmarshalsJSON):
		l.add(path, "%v: JSON has their text, and would call UnmarshalJSON all the same", t)
	case to && from:
		if by, ok := promoting(t); ok {
			l.add(path, "their text is that of the embedded %s alone", by)
		}
	case to || from || p.Implements(marshalsText):
		l.add(path, "%v has no pair of MarshalText, without a pointer receiver, and UnmarshalText", t)
	case kind < reflect.Int || kind > reflect.Uintptr:
		l.add(path, "of kind %v, which JSON does not have", kind)
	}
}

// fields checks the fields of the struct t, including those that encoding/json promotes from embedded
// structs. names maps the JSON names of the fields so far to their paths, to find those that hide each
// other. within has the structs that t is embedded in.
func (l *losses) fields(
	t reflect.Type, path string, addressable bool, names map[string]string, within []reflect.Type,
) {
	if slices.Contains(within, t) {
		l.add(path, "%v is embedded in itself", t)
		return
	}
	within = append(within, t)
	for i := range t.NumField() {
		f := t.Field(i)
		at := path + "." + f.Name
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if !isName(name) {
			name = ""
		}
		embedded := f.Anonymous && name == ""
		switch {
		case f.Type.Size() == 0 && !f.IsExported(): // it holds nothing
		case tag == "-":
			l.add(at, "left out by its tag")
		case embedded && f.Type.Kind() == reflect.Struct:
			l.fields(f.Type, at, addressable, names, within)
		case embedded && f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct &&
			f.IsExported():
			if !isAlwaysThere(f.Type.Elem()) {
				l.add(at, "an embedded pointer that would come back as nil, since all fields can be omitted")
			}
			l.fields(f.Type.Elem(), at, true, names, within)
		case f.Name == "_":
		case !f.IsExported():
			l.add(at, "an unexported field, which JSON leaves out")
		default:
			if name == "" {
				name = f.Name
			}
			if other, ok := names[name]; ok {
				l.add(at, "%q in JSON, as is %s: one hides the other", name, other)
			}
			names[name] = at
			if slices.Contains(strings.Split(options, ","), "string") && hasMethods(f.Type) {
				l.add(at, "%v has methods for JSON, with which its tag's option string does not go", f.Type)
			}
			l.value(f.Type, at, addressable)
		}
	}
}

// hasMethods reports whether t, or the type it points to, is decoded by a method of its own.
func hasMethods(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p := reflect.PointerTo(t)
	return p.Implements(unmarshalsJSON) || p.Implements(unmarshalsText)
}

// isAlwaysThere reports whether the struct t has a field of its own that its JSON never omits. Only then does
// decoding allocate a struct for an embedded pointer to t.
func isAlwaysThere(t reflect.Type) bool {
	for i := range t.NumField() {
		f := t.Field(i)
		_, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && !f.Anonymous && !strings.Contains(options, "omit") {
			return true
		}
	}
	return false
}

// isName reports whether encoding/json accepts s as the name in a tag. Otherwise it uses the field's name.
func isName(s string) bool {
	const punctuation = "!#$%&()*+-./:;<=>?@[]^_{|}~ "
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(punctuation, r) {
			return false
		}
	}
	return s != ""
}

// promoting returns the embedded field that t has its methods from, if any: then the JSON of t is that of the
// field, and the other fields are lost. Reflection does not tell a promoted method from one of t's own. So
// promoting compares the JSON of a zero t with that of a zero field.
func promoting(t reflect.Type) (field string, ok bool) {
	if t.Kind() != reflect.Struct || t.NumField() == 1 {
		return "", false
	}
	defer func() { _ = recover() }() // methods that panic for a zero value get the benefit of the doubt
	for i := range t.NumField() {
		f := t.Field(i)
		p := reflect.PointerTo(f.Type)
		if !f.Anonymous || !p.Implements(marshalsJSON) && !p.Implements(marshalsText) {
			continue
		}
		outer, inner := reflect.New(t), reflect.New(f.Type)
		if f.Type.Kind() == reflect.Pointer {
			inner.Elem().Set(reflect.New(f.Type.Elem()))
		}
		if f.IsExported() {
			outer.Elem().Field(i).Set(inner.Elem())
		}
		a, errA := json.Marshal(outer.Interface())
		b, errB := json.Marshal(inner.Interface())
		if string(a) == string(b) && (errA == nil) == (errB == nil) {
			return f.Name, true
		}
	}
	return "", false
}

// CheckValue returns an error if a string in v is not UTF-8: encoding/json would replace the bytes that are
// not. The error names the first such string, by a path that begins with path. v must be of a type that
// CheckType accepts, and have been encoded without an error: a value that contains itself would not end.
// v should be addressable, as what json.Marshal gets by a pointer is.
func CheckValue(v reflect.Value, path string) error {
	t := v.Type()
	switch {
	case t.Implements(marshalsJSON) || v.CanAddr() && reflect.PointerTo(t).Implements(marshalsJSON):
		return nil // MarshalJSON is responsible for its strings
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return CheckValue(v.Elem(), path)
	case t.Implements(marshalsText):
		return checkMarshalled(v, path)
	case v.CanAddr() && reflect.PointerTo(t).Implements(marshalsText):
		return checkMarshalled(v.Addr(), path)
	}
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return notText(path)
		}
	case reflect.Slice, reflect.Array:
		for i := 0; i < v.Len() && t.Elem().Kind() != reflect.Uint8; i++ {
			if err := CheckValue(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			key := it.Key()
			at := fmt.Sprintf("%s[%q]", path, fmt.Sprint(key))
			if err := errors.Join(CheckValue(key, path+"'s key"), CheckValue(it.Value(), at)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if err := CheckValue(v.Field(i), path+"."+t.Field(i).Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkMarshalled is CheckValue for a value with text methods.
func checkMarshalled(v reflect.Value, path string) error {
	if !v.CanInterface() {
		return nil
	}
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	if err == nil && !utf8.Valid(text) {
		err = notText(path)
	}
	return err
}

// notText returns the error for a string at path that is not UTF-8.
func notText(path string) error {
	return fmt.Errorf("%s is not UTF-8, so that JSON would alter it", path)
}
