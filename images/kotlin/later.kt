// What Kotlin 1.4 to 1.6 added to the standard library, for the 1.3 that Debian has: the functions
// that programs of today call most. The default imports make them visible everywhere.
package kotlin

import java.util.Locale

fun String.uppercase(): String = (this as java.lang.String).toUpperCase(Locale.ROOT)
fun String.lowercase(): String = (this as java.lang.String).toLowerCase(Locale.ROOT)
fun Char.uppercaseChar(): Char = Character.toUpperCase(this)
fun Char.lowercaseChar(): Char = Character.toLowerCase(this)
fun Char.uppercase(): String = toString().uppercase()
fun Char.lowercase(): String = toString().lowercase()
fun Char.digitToInt(): Int =
    Character.digit(this, 10).also { require(it >= 0) { "Char $this is not a decimal digit" } }
fun Char.digitToIntOrNull(): Int? = Character.digit(this, 10).takeIf { it >= 0 }
val Char.code: Int get() = toInt()

inline fun String.replaceFirstChar(transform: (Char) -> Any): String =
    if (isEmpty()) this else transform(this[0]).toString() + substring(1)

fun readln(): String = readLine() ?: throw RuntimeException("EOF has already been reached")
fun readlnOrNull(): String? = readLine()

fun <T : Comparable<T>> Iterable<T>.maxOrNull(): T? = max()
fun <T : Comparable<T>> Iterable<T>.minOrNull(): T? = min()
fun IntArray.maxOrNull(): Int? = max()
fun IntArray.minOrNull(): Int? = min()
fun <T : Comparable<T>> Sequence<T>.maxOrNull(): T? = max()
fun <T : Comparable<T>> Sequence<T>.minOrNull(): T? = min()
inline fun <T, R : Comparable<R>> Iterable<T>.maxByOrNull(selector: (T) -> R): T? = maxBy(selector)
inline fun <T, R : Comparable<R>> Iterable<T>.minByOrNull(selector: (T) -> R): T? = minBy(selector)
inline fun <T, R : Comparable<R>> Iterable<T>.maxOf(selector: (T) -> R): R =
    map(selector).max() ?: throw NoSuchElementException()
inline fun <T, R : Comparable<R>> Iterable<T>.minOf(selector: (T) -> R): R =
    map(selector).min() ?: throw NoSuchElementException()
inline fun <T, R : Any> Iterable<T>.firstNotNullOfOrNull(transform: (T) -> R?): R? {
    for (element in this) transform(element)?.let { return it }
    return null
}

@Suppress("UNCHECKED_CAST")
inline fun <T, reified R : Number> Iterable<T>.sumOf(selector: (T) -> R): R {
    val values = map(selector)
    return when (R::class) {
        Int::class -> values.sumBy { it.toInt() }
        Long::class -> values.fold(0L) { sum, it -> sum + it.toLong() }
        else -> values.sumByDouble { it.toDouble() }
    } as R
}

inline fun <T> buildList(fill: MutableList<T>.() -> Unit): List<T> = mutableListOf<T>().apply(fill)
inline fun <K, V> buildMap(fill: MutableMap<K, V>.() -> Unit): Map<K, V> =
    mutableMapOf<K, V>().apply(fill)
inline fun <T> buildSet(fill: MutableSet<T>.() -> Unit): Set<T> = mutableSetOf<T>().apply(fill)
inline fun <T> Iterable<T>.onEachIndexed(action: (Int, T) -> Unit): Iterable<T> =
    also { it.forEachIndexed(action) }
inline fun <T, R> Iterable<T>.runningFold(initial: R, operation: (R, T) -> R): List<R> {
    val results = mutableListOf(initial)
    for (element in this) results += operation(results.last(), element)
    return results
}
